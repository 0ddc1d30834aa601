"""Device, precision and memory errors of `runtime.device`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.project.errors import PipelineError, UsageError


def resolve_device(name: str) -> torch.device:
    """Return the device of `runtime.device`; `auto` is the GPU if there is one.

    Raises:
        UsageError: there is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)  # the named device may not exist
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on the device
        reason = str(error).splitlines()[0]
        raise UsageError(f"params: 'runtime.device': '{name}' is not there: {reason}; use auto or cpu") from None
    return device


def emulated_precision_warning(device: torch.device, precision: str) -> str | None:
    """Return a warning if a CPU has no instructions for a precision and emulates it, many times slower."""
    if device.type != "cpu" or precision == "fp32" or has_native_precision(precision):
        return None
    return (
        f"this processor has no {precision} instructions and emulates them, up to fifty times slower than fp32; "
        "set precision: fp32"
    )


def has_native_precision(precision: str) -> bool:
    """Return whether this CPU has instructions for a reduced precision."""
    native = torch.ops.mkldnn
    return bool(native._is_mkldnn_bf16_supported() if precision == "bf16" else native._is_mkldnn_fp16_supported())


class OutOfDeviceMemoryError(PipelineError):
    """The device has too little memory for a batch."""


@contextmanager
def report_out_of_memory(device: torch.device) -> Iterator[None]:
    """Convert an out-of-memory error of a device to one line that says what to do.

    Raises:
        OutOfDeviceMemoryError: a batch does not fit.
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
    """Return the device of `runtime.device`, configured for batches of constant shape.

    Raises:
        UsageError: there is no such device.
    """
    device = resolve_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # benchmark kernels once, because shapes are constant
    return device
