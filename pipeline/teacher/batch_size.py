"""Batch size of the teacher: recorded, configured, or found by measurement."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from pipeline.project.device import OutOfDeviceMemoryError
from pipeline.project.errors import PipelineError
from pipeline.teacher.model import Teacher

CPU_FIRST, GPU_FIRST = 4, 1024
"""First batch size of the search: small on a CPU, and doubled; large on a GPU, and halved."""
MIN_SPEEDUP = 1.03
"""Minimum speed-up of a larger batch; less is noise, at the cost of memory."""
SEARCH_SECONDS = 20.0


def find_batch_size(teacher: Teacher, most: int) -> int:
    """Return a batch size for images of this teacher on this machine, at most `most` rows, the longest shard.

    On a GPU the largest that fits, halved from 1024. On a CPU it is doubled while the time per image decreases, because
    caches, not memory, are the limit there.

    Raises:
        PipelineError: not even one image fits.
    """
    tried = _largest(teacher, most) if teacher.device.type == "cuda" else _fastest(teacher, most)
    print(f"embed: batch {tried}, found by trying; the store keeps it", file=sys.stderr)
    return tried


def _largest(teacher: Teacher, most: int) -> int:
    rows = min(GPU_FIRST, most)
    while rows:
        try:
            _forward(teacher, rows)
        except OutOfDeviceMemoryError:
            torch.cuda.empty_cache()
            rows //= 2
        else:
            return rows
    raise PipelineError(f"embed: {teacher.device} has no room for one image of {teacher.identity.model}")


def _fastest(teacher: Teacher, most: int) -> int:
    until = time.monotonic() + SEARCH_SECONDS
    rows = min(CPU_FIRST, most)
    _forward(teacher, rows)  # warm-up: the first pass initializes the device
    best = _seconds(teacher, rows) / rows
    while 2 * rows <= most and time.monotonic() < until:
        each = _seconds(teacher, 2 * rows) / (2 * rows)
        if each * MIN_SPEEDUP > best:
            break
        rows, best = 2 * rows, each
    return rows


def _seconds(teacher: Teacher, rows: int) -> float:
    """Return the shorter of two timings, because other work on the machine only ever adds time."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        _forward(teacher, rows)
        times.append(time.perf_counter() - start)
    return min(times)


def _forward(teacher: Teacher, rows: int) -> None:
    size = teacher.identity.image_size
    teacher.embed_images(np.zeros((rows, size, size, 3), np.uint8))
