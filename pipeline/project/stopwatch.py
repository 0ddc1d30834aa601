"""Time work on batches that grow, within a time that does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_ROWS = 4


@dataclass(frozen=True)
class RowTime:
    """Seconds a row, and the rows of the batch that was measured."""

    seconds: float
    rows: int


@dataclass(frozen=True)
class TeacherSpeed:
    """What a teacher costs on a machine: `pipeline/teacher/` measures it, and nothing else may load one."""

    device: str
    dim: int
    context_length: int
    load_seconds: float
    image_seconds: float
    """Forward pass of one image in a batch."""
    text_seconds: float
    """Forward pass of one text, of the lengths of the captions at hand; 0 of a teacher that reads none."""
    memory_bytes: int
    """Main memory that the forward passes took beside the weights."""
    measured_rows: int
    """Images of the largest batch that was measured."""


def fastest_per_row(work: Callable[[int], object], batch: int, seconds: float) -> RowTime:
    """Return the seconds of a row in the largest batch up to `batch` for which there was time.

    The first pass of all sets things up and is not counted. Batches double while twice the last fits into the time.
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
    """Return the seconds that the work on so many rows takes."""
    start = time.perf_counter()
    work(rows)
    return time.perf_counter() - start
