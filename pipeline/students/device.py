"""Where students compute."""

from __future__ import annotations

import torch

from pipeline.project.device import find_device


def choose_device(name: str) -> torch.device:
    """Return the device of `runtime.device`, set up for batches of one shape.

    Raises:
        UsageError: there is no device of this name here.
    """
    device = find_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the fastest kernel is looked for once
    return device
