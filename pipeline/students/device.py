"""Where students compute."""

from __future__ import annotations

import torch

from pipeline.project.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Return the device of `runtime.device`; `auto` is the GPU where there is one.

    Raises:
        UsageError: CUDA is asked for and there is none, or no device has this name.
    """
    device = _named(name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all batches have one shape: the fastest kernel is looked for once
    return device


def _named(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"runtime.device: no device '{name}'; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"runtime.device: {name}: there is no CUDA device here; use cpu or auto")
    return device
