"""How many images a forward pass takes: as recorded, as given, or found by trying."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from pipeline.project.device import OutOfDeviceMemoryError
from pipeline.project.errors import PipelineError
from pipeline.teacher.model import Teacher

CPU_FIRST, GPU_FIRST = 4, 1024
"""A processor is tried upwards from a few rows; a GPU downwards from more than pays."""
MIN_SPEEDUP = 1.03
"""A larger batch has to be this much faster: what is less is noise, and memory for nothing."""
SEARCH_SECONDS = 20.0


def find_batch_size(teacher: Teacher, most: int) -> int:
    """Return a batch size for images of this teacher here, at most `most` rows: no shard is longer.

    On a GPU the largest that fits, halved from 1024 until it does. On a processor twice the rows as long as an
    image then costs less: caches, not memory, are what is short there.

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
    _forward(teacher, rows)  # the first pass of all sets up what later ones find ready
    best = _seconds(teacher, rows) / rows
    while 2 * rows <= most and time.monotonic() < until:
        each = _seconds(teacher, 2 * rows) / (2 * rows)
        if each * MIN_SPEEDUP > best:
            break
        rows, best = 2 * rows, each
    return rows


def _seconds(teacher: Teacher, rows: int) -> float:
    """Return the shorter of two looks: what else runs on the machine only ever adds."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        _forward(teacher, rows)
        times.append(time.perf_counter() - start)
    return min(times)


def _forward(teacher: Teacher, rows: int) -> None:
    size = teacher.identity.image_size
    teacher.embed_images(np.zeros((rows, size, size, 3), np.uint8))
