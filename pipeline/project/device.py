"""Device, precision and memory errors of `runtime.device`."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.project.errors import PipelineError, UsageError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt, from malloc.h."""
MAPPED_BYTES = 1 << 30
"""Larger blocks still go back to the system when they are freed."""
OLD_MAXIMUM = 1 << 25
"""The largest threshold that older versions of glibc accept."""


def resolve_device(name: str) -> torch.device:
    """Return the device of `runtime.device`; `auto` is the GPU if there is one. For a CPU, keep freed memory.

    Raises:
        UsageError: there is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)  # the named device may not exist
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on the device
        reason = str(error).splitlines()[0]
        raise UsageError(f"params: 'runtime.device': '{name}' is not there: {reason}; use auto or cpu") from None
    if device.type == "cpu":
        keep_freed_memory()
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


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the next batch; return whether it does.

    By default glibc gives the large blocks that a layer frees back to the system, which then clears every page again
    for the next layer. On a CPU a convolutional network can spend half of its time in these page faults, and keeping
    the memory raises the peak by up to a fifth (benchmarks/bench_page_faults.py).

    Nothing changes with another C library, or if the environment sets one of the two thresholds itself.
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES) or mallopt(M_MMAP_THRESHOLD, OLD_MAXIMUM)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, -1))
