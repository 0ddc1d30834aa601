"""The device that `runtime.device` names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.project.errors import PipelineError, UsageError


def resolve_device(name: str) -> torch.device:
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


def emulated_precision_warning(device: torch.device, precision: str) -> str | None:
    """Return a warning where a processor has no instructions for a precision, and computes it many times slower."""
    if device.type != "cpu" or precision == "fp32" or has_native_precision(precision):
        return None
    return (
        f"this processor has no {precision} instructions and emulates them, up to fifty times slower than fp32; "
        "set precision: fp32"
    )


def has_native_precision(precision: str) -> bool:
    """Return whether this processor computes in a reduced precision itself."""
    native = torch.ops.mkldnn
    return bool(native._is_mkldnn_bf16_supported() if precision == "bf16" else native._is_mkldnn_fp16_supported())


class OutOfDeviceMemoryError(PipelineError):
    """The device has too little memory for a batch."""


@contextmanager
def report_out_of_memory(device: torch.device) -> Iterator[None]:
    """Turn the device's refusal of a batch into one line with what to do about it.

    Raises:
        NoRoomError: a batch does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemoryError(
            f"embed: {device} has no room for this batch. A new store takes runtime.teacher_batch: auto, or a smaller "
            "number; one that was begun keeps its batch size (`info` says which): free memory on the device, or "
            "remove the store and embed again."
        ) from error


def choose_device(name: str) -> torch.device:
    """Return the device of `runtime.device`, set up for batches of one shape.

    Raises:
        UsageError: there is no device of this name here.
    """
    device = resolve_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the fastest kernel is looked for once
    return device
