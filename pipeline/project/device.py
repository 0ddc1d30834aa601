"""The device that `runtime.device` names."""

from __future__ import annotations

import torch

from pipeline.project.errors import UsageError


def find_device(name: str) -> torch.device:
    """Return the device of `runtime.device`; `auto` is the GPU where there is one.

    Raises:
        UsageError: there is no device of this name here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)  # a name alone says nothing of whether it is there
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by device, torch raises any of these
        reason = str(error).splitlines()[0]
        raise UsageError(f"params: 'runtime.device': '{name}' is not there: {reason}; use auto or cpu") from None
    return device
