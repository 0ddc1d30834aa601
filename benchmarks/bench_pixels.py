"""Measure the cost of checking each block of the pixels at its first use, relative to a training epoch.

    python benchmarks/bench_pixels.py --student mobilenetv3 --size 64

One epoch of shuffled batches is cut from a store of pixels by an opened store that hashes each block once, and by one
that was asked for sizes alone; processor seconds in turn, and their difference is held against the step of training on
those batches. Later epochs of a process pay nothing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import options_of, processor
from cache.blocks import BlockHasher
from pipeline.students.inputs.loader import Batch
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import BatchTargets, LossParams
from pipeline.students.losses.scaling import build_objective
from pipeline.students.model import Student, StudentParams
from pipeline.students.training.step import DistillationStep

WHOLE = np.array([0, 0, 1, 1], np.float32)


def main() -> None:
    """Measure an epoch of reading with and without hashes, and a step of training."""
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-pixels-") as folder:
        opened = _write_pixels(Path(folder), options)
        times = [
            [_measure(partial(_opened_epoch, opened, hashed, options)) for hashed in (True, False)]
            for _ in range(options.rounds + 1)
        ][1:]
    step = statistics.median(_step_seconds(options)) / options.batch
    hashed, plain = (statistics.median(column) / options.images for column in zip(*times, strict=True))
    print(
        f"an image of {options.size} px: {1e6 * plain:.1f} us to read, {1e6 * (hashed - plain):.1f} us to hash, "
        f"{1e6 * step:.0f} us to train {options.student} on it (processor time): {(hashed - plain) / step:.2%} of "
        "the first epoch"
    )


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, size=64, images=20000, batch=128, steps=3)
    parser.add_argument("--student", default="mobilenetv3")
    return parser.parse_args()


def _write_pixels(folder: Path, options: argparse.Namespace) -> Callable[[bool], PixelStore]:
    """Write random pixels, and return what opens them anew, with or without the hashes of their blocks."""
    generator, hasher, path = np.random.default_rng(0), BlockHasher(), folder / "pixels.u8"
    with path.open("wb") as file:
        for _ in range(options.images):
            data = generator.bytes(options.size**2 * 3)
            file.write(data)
            hasher.update(memoryview(data))
    digests, count = hasher.digests(), options.images
    return lambda hashed: PixelStore(
        path,
        tuple(map(str, range(count))),
        np.arange(count) * options.size**2 * 3,
        np.full((count, 2), options.size),
        np.tile(WHOLE, (count, 1)),
        options.workers,
        digests if hashed else None,
    )


def _epoch(pixels: PixelStore, options: argparse.Namespace) -> None:
    order = np.random.default_rng(1).permutation(options.images)
    boxes, flips = np.tile(WHOLE, (options.batch, 1)), np.zeros(options.batch, bool)
    for start in range(0, options.images - options.batch + 1, options.batch):
        pixels.batch(order[start : start + options.batch], boxes, flips, options.size)


def _opened_epoch(opened: Callable[[bool], PixelStore], hashed: bool, options: argparse.Namespace) -> None:
    _epoch(opened(hashed), options)


def _measure(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _step_seconds(options: argparse.Namespace) -> list[float]:
    """Return processor seconds of some steps of training on one batch, after a first one."""
    image = np.random.default_rng(0).standard_normal((1, options.batch, 512)).astype(np.float32)
    boxes, flips = np.tile(WHOLE, (1, options.batch, 1)), np.zeros((1, options.batch), bool)
    objective = build_objective(LossParams(fd=1.0), Targets(image, boxes, flips, None, None))
    learner = DistillationStep(Student(options.student, StudentParams(), 512), objective, "fp32").train()
    pixels = torch.randint(0, 256, (options.batch, options.size, options.size, 3), dtype=torch.uint8)
    batch = Batch(np.arange(options.batch), pixels, BatchTargets(torch.from_numpy(image[0])))

    def step() -> None:
        learner(batch).loss.backward()

    return [_measure(step) for _ in range(options.steps + 1)][1:]


if __name__ == "__main__":
    main()
