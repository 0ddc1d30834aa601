"""Time work with growing batch sizes within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_ROWS = 4


@dataclass(frozen=True)
class RowTime:
    """Seconds per row, and the measured batch size."""

    seconds: float
    rows: int


@dataclass(frozen=True)
class TeacherSpeed:
    """Cost of a teacher on this machine, measured in `pipeline/teacher/`."""

    device: str
    dim: int
    context_length: int
    load_seconds: float
    image_seconds: float
    """Seconds of the forward pass per image."""
    text_seconds: float
    """Seconds of the forward pass per text, with the lengths of the given captions; 0 without text tower."""
    memory_bytes: int
    """Memory of the forward passes, besides the weights."""
    measured_rows: int
    """Largest measured batch size."""


def fastest_per_row(work: Callable[[int], object], batch: int, seconds: float) -> RowTime:
    """Return the seconds per row at the largest batch size up to `batch` that fits into the time.

    A warm-up is not counted. The batch size doubles while twice the last time fits.
    """
    until, rows = time.monotonic() + seconds, min(FIRST_ROWS, batch)
    work(rows)
    spent = time_call(work, rows)
    while rows < batch and time.monotonic() + 2 * spent < until:
        rows = min(2 * rows, batch)
        spent = time_call(work, rows)
    if time.monotonic() + spent < until:
        spent = min(spent, time_call(work, rows))
    return RowTime(spent / rows, rows)


def time_call(work: Callable[[int], object], rows: int) -> float:
    """Return the seconds of work on a number of rows."""
    start = time.perf_counter()
    work(rows)
    return time.perf_counter() - start
