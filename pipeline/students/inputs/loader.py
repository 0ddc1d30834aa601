"""Batches: which rows, which view of each, and their pixels, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from pipeline.students.inputs.gpu_pixels import GpuPixelStore, load_on_gpu
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import BatchTargets
from pipeline.students.training.distributed import SINGLE_PROCESS, DistributedContext


class PixelSource(Protocol):
    """The decoded images of a split (students/pixels.py)."""

    def batch(
        self,
        rows: Int64[np.ndarray, " b"],
        boxes: Float[np.ndarray, "b 4"],
        flips: Bool[np.ndarray, " b"],
        size: int,
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """Return the pixels of one view of each row."""
        ...


Source = PixelSource | GpuPixelStore


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    rows: Int64[np.ndarray, " b"]
    pixels: UInt8[Tensor, "b s s 3"]
    targets: BatchTargets
    tokens: Int[Tensor, "b l"] | None = None
    """The captions of the rows, for a student that reads."""

    def part(self, chosen: slice) -> Batch:
        """Return some of its rows."""
        tokens = None if self.tokens is None else self.tokens[chosen]
        return Batch(self.rows[chosen], self.pixels[chosen], self.targets.part(chosen), tokens)


@dataclass(frozen=True)
class BatchLoader:
    """Rows in an order drawn from (seed, epoch), each view of an image before any repeats.

    A batch is a function of its step alone, so that a resumed run sees what an uninterrupted one would have,
    and arms that share a seed see the same images in the same order.
    """

    pixels: PixelSource
    targets: Targets
    batch: int
    size: int
    seed: int
    device: torch.device
    flip_probability: float = 0.0
    """Probability of mirroring an image whose target was not mirrored: 0 unless asked for by name."""
    bank_size: int = 0
    """Captions drawn at each step as more negatives."""
    ranks: DistributedContext = SINGLE_PROCESS
    """Each process looks at its share of the pixels; targets are small, and everybody has the whole batch's."""
    max_captions: int | None = None
    """The first so many captions of an image; default: all."""

    @property
    def rows(self) -> int:
        """Return the number of training images."""
        return len(self.targets.image[0])

    @property
    def epoch_steps(self) -> int:
        """Return the steps of an epoch; what does not fill a batch waits for the next shuffle."""
        return max(1, self.rows // self.batch)

    def batch_at(self, step: int) -> Batch:
        """Return the batch of a step."""
        epoch, rows = self._rows(step)
        view = _views(self.seed, epoch, *self.targets.image.shape[:2])[rows]
        flips = self.targets.flips[view, rows] ^ (
            _draw(self.seed, epoch, "flip", self.rows)[rows] < self.flip_probability
        )
        share = self.ranks.local_slice(len(rows))
        boxes = self.targets.boxes[view, rows]
        pixels = self._source.batch(rows[share], boxes[share], flips[share], self.size)
        image = self._on_device(self.targets.image[view, rows])
        tokens = None
        if self.targets.tokens is not None:
            tokens = self._on_device(self.targets.tokens[self.captions(step)[share]].astype(np.int64))
        return Batch(rows, self._on_device(pixels), self._wanted(step, rows, image), tokens)

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of steps first … last − 1, one of them always in the making."""
        with ThreadPoolExecutor(1, "feed") as pool:
            coming = pool.submit(self.batch_at, first)
            for step in range(first + 1, last + 1):
                batch = coming.result()
                if step < last:
                    coming = pool.submit(self.batch_at, step)
                yield batch

    def captions(self, step: int) -> Int64[np.ndarray, " b"]:
        """Return the caption that each row of a step goes with, one of its own drawn per epoch."""
        epoch, rows = self._rows(step)
        first, last = self.targets.captions_of(rows)
        if self.max_captions is not None:
            last = np.minimum(last, first + self.max_captions)
        share = _draw(self.seed, epoch, "caption", self.rows)[rows]
        chosen: Int64[np.ndarray, " b"] = first + (share * (last - first)).astype(np.int64)
        return chosen

    def _rows(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        epoch, number = divmod(step, self.epoch_steps)
        return epoch, _order(self.seed, epoch, self.rows)[number * self.batch : (number + 1) * self.batch]

    def _wanted(self, step: int, rows: Int64[np.ndarray, " b"], image: Float[Tensor, "b k"]) -> BatchTargets:
        targets = self.targets
        if targets.labels is not None and targets.classes is not None:
            words = (targets.classes, targets.domains, targets.teacher_classes)
            shared = dict(zip(("classes", "domains", "teacher_classes"), map(self._shared, words), strict=True))
            return BatchTargets(image, label=self._on_device(targets.labels[rows]), **shared)
        if targets.text is None:
            return BatchTargets(image)
        text = self._on_device(targets.text[self.captions(step)])
        if not self.bank_size:
            return BatchTargets(image, text)
        drawn = _generator(self.seed, step, "bank").integers(0, len(targets.text), self.bank_size)
        first, last = targets.captions_of(rows)
        own = (drawn >= first[:, None]) & (drawn < last[:, None])
        return BatchTargets(image, text, self._on_device(targets.text[drawn]), self._on_device(own))

    @cached_property
    def _source(self) -> Source:
        """Where pixels come from: the memory of the GPU if the split fits there, else the store."""
        pixels = self.pixels
        return (load_on_gpu(pixels, self.device) if isinstance(pixels, PixelStore) else None) or pixels

    def _shared(self, array: np.ndarray | None) -> Tensor | None:
        return None if array is None else self._on_device(array)

    def _on_device(self, array: np.ndarray | Tensor) -> Tensor:
        if isinstance(array, Tensor):
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)


RNG_STREAMS = {"order": 0, "view": 1, "flip": 2, "caption": 3, "bank": 4}
"""Each kind of draw has a stream of its own, so that one more kind changes none of the others."""


def _generator(seed: int, epoch: int, kind: str) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, RNG_STREAMS[kind]])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> Int64[np.ndarray, " n"]:
    return _generator(seed, epoch, "order").permutation(rows)


@lru_cache(maxsize=8)
def _draw(seed: int, epoch: int, kind: str, rows: int) -> Float[np.ndarray, " n"]:
    return _generator(seed, epoch, kind).random(rows)


@lru_cache(maxsize=2)
def _views(seed: int, epoch: int, views: int, rows: int) -> Int64[np.ndarray, " n"]:
    """Return each row's view of an epoch: a permutation of its views is gone through before another is drawn."""
    if views == 1:
        return np.zeros(rows, dtype=np.int64)
    cycle, turn = divmod(epoch, views)
    return _generator(seed, cycle, "view").random((rows, views)).argsort(axis=1)[:, turn]
