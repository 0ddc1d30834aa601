"""Batches: rows, the view of each, and their pixels, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from pipeline.project.errors import UsageError
from pipeline.students.inputs.caption_mix import CaptionSampler
from pipeline.students.inputs.gpu_pixels import GpuPixelStore, load_on_gpu
from pipeline.students.inputs.orders import FullShuffle, Order, WindowShuffle
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.streamed_pixels import StreamedPixels, ViewRequest
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import BatchTargets
from pipeline.students.training.distributed import SINGLE_PROCESS, DistributedContext


class PixelSource(Protocol):
    """Decoded images of a split."""

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
    """Inputs of one training step."""

    rows: Int64[np.ndarray, " b"]
    pixels: UInt8[Tensor, "b s s 3"]
    targets: BatchTargets
    tokens: Int[Tensor, "b l"] | None = None
    """Captions of the rows, for a student with a text tower."""

    def part(self, rows: slice) -> Batch:
        """Return some of its rows."""
        tokens = None if self.tokens is None else self.tokens[rows]
        return Batch(self.rows[rows], self.pixels[rows], self.targets.part(rows), tokens)


@dataclass(frozen=True)
class BatchLoader:
    """Rows in an order drawn from (seed, epoch); all views of an image are used before any repeats.

    Stored pixels are shuffled in full, streamed pixels by windows of shards (`orders.py`). With `shard_groups`, a batch
    is in the order of the groups: a process whose part is that of some groups reads their shards only.

    A batch is a function of its step alone, so a resumed run has the same batches as an uninterrupted one, and arms
    with the same seed have the same images in the same order.
    """

    pixels: PixelSource
    targets: Targets
    batch: int
    size: int
    seed: int
    device: torch.device
    flip_probability: float = 0.0
    """Probability of mirroring an image without its target; 0 unless `augmentation: free`."""
    bank_size: int = 0
    """Number of captions drawn at each step as additional negatives."""
    ranks: DistributedContext = SINGLE_PROCESS
    """Each process loads its part of the pixels; targets are small, and every process has those of the whole batch."""
    max_captions: int | None = None
    """Number of captions used per image in each set, the first ones; default: all."""
    shuffle_buffer: int = 10_000
    """Number of rows shuffled together if pixels are streamed."""
    shard_groups: int = 1
    """Number of groups of shards that give an equal part of each batch if pixels are streamed."""
    patch_side: int | None = None
    """Side of the student's token grid, if it is trained on the teacher's patch tokens."""

    @property
    def rows(self) -> int:
        """Return the number of training images."""
        return int(self.targets.image.shape[1])

    @property
    def epoch_steps(self) -> int:
        """Return the steps of an epoch; an incomplete last batch is dropped."""
        return max(1, self._order.epoch_rows // self.batch)

    def check_groups(self) -> None:
        """Check that the groups of shards can give equal parts of a batch.

        Raises:
            UsageError: they are not a divisor of the batch, or one has too few images.
        """
        order, groups = self._order, self.shard_groups
        if isinstance(order, WindowShuffle) and (self.batch % groups or order.epoch_rows < self.batch):
            raise UsageError(
                f"distill.training.shard_groups: {groups} groups of {len(order.shard_rows)} shards, the smallest of "
                f"{order.epoch_rows // groups} images, cannot give equal parts of a batch of {self.batch}. Choose a "
                "divisor of the batch, and shards enough for each group"
            )

    def batch_at(self, step: int) -> Batch:
        """Return the batch of a step."""
        return self._assemble(step, self._source.batch(*self._wanted_views(step), self.size))

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of steps first … last − 1, with one prefetched."""
        if first >= last:
            return
        with self._pixels_of(range(first, last)) as pixels, ThreadPoolExecutor(1, "feed") as pool:

            def make(step: int) -> Batch:
                return self._assemble(step, next(pixels))

            coming = pool.submit(make, first)
            for step in range(first + 1, last + 1):
                batch = coming.result()
                if step < last:
                    coming = pool.submit(make, step)
                yield batch

    @contextmanager
    def _pixels_of(self, steps: range) -> Iterator[Iterator[UInt8[Tensor, "b s s 3"] | np.ndarray]]:
        """Yield the pixels of steps in order; if streamed, decoded by other processes."""
        source = self._source
        if isinstance(source, StreamedPixels):
            with source.stream(map(self._wanted_views, steps), self.size) as pixels:
                yield pixels
        else:
            yield (source.batch(*self._wanted_views(step), self.size) for step in steps)

    def _wanted_views(self, step: int) -> ViewRequest:
        """Return the views of a step, for this process's rows."""
        epoch, rows = self._rows(step)
        mine = rows[self.ranks.local_slice(len(rows))]
        view = self._order.views(epoch, len(self.targets.image), mine)
        return mine, self.targets.boxes[view, mine], self._flips(epoch, view, mine)

    def _flips(self, epoch: int, view: Int64[np.ndarray, " b"], rows: Int64[np.ndarray, " b"]) -> np.ndarray:
        flips: np.ndarray = self.targets.flips[view, rows]
        return np.logical_xor(flips, self._mirrored(epoch, rows)) if self.flip_probability else flips

    def _mirrored(self, epoch: int, rows: Int64[np.ndarray, " b"]) -> np.ndarray:
        """Return which images are mirrored without their targets."""
        if not self.flip_probability:
            return np.zeros(len(rows), bool)
        return self._order.draw(epoch, "flip", rows) < self.flip_probability

    def _assemble(self, step: int, pixels: np.ndarray | Tensor) -> Batch:
        epoch, rows = self._rows(step)
        view = self._order.views(epoch, len(self.targets.image), rows)
        image = self._on_device(self.targets.image[view, rows])
        tokens = None
        if self.targets.tokens is not None:
            mine = rows[self.ranks.local_slice(len(rows))]
            tokens = self._on_device(self._captions.tokens(epoch, mine).astype(np.int64))
        targets = self._wanted(step, epoch, rows, image)
        if self.targets.patches is not None and self.patch_side is not None:
            patches = self.targets.patches.batch(rows, self._mirrored(epoch, rows), self.patch_side)
            targets = replace(targets, patches=self._on_device(patches))
        return Batch(rows, self._on_device(pixels), targets, tokens)

    def captions(self, step: int) -> Int64[np.ndarray, " b"]:
        """Return the caption of each row of a step, drawn per epoch: its number in its set."""
        return self._captions.numbers(*self._rows(step))

    def caption_sets(self, step: int) -> Int64[np.ndarray, " b"]:
        """Return the set of each of these captions: 0 for the image's own, i for the i-th further file."""
        return self._captions.sets(*self._rows(step))

    def _rows(self, step: int) -> tuple[int, Int64[np.ndarray, " b"]]:
        epoch, number = divmod(step, self.epoch_steps)
        return epoch, self._order.rows_at(epoch, number * self.batch, (number + 1) * self.batch)

    def _wanted(
        self, step: int, epoch: int, rows: Int64[np.ndarray, " b"], image: Float[Tensor, "b k"]
    ) -> BatchTargets:
        targets = self.targets
        if targets.labels is not None and targets.classes is not None:
            words = (targets.classes, targets.domains, targets.teacher_classes)
            shared = dict(zip(("classes", "domains", "teacher_classes"), map(self._shared, words), strict=True))
            return BatchTargets(image, label=self._on_device(targets.labels[rows]), **shared)
        if targets.text is None:
            return BatchTargets(image)
        text = self._on_device(self._captions.texts(epoch, rows))
        if not self.bank_size:
            return BatchTargets(image, text)
        bank = self._captions.bank(step, rows, self.bank_size)
        return BatchTargets(image, text, self._on_device(bank.text), self._on_device(bank.is_own))

    @cached_property
    def _captions(self) -> CaptionSampler:
        targets = self.targets
        return CaptionSampler(targets.own_captions, targets.caption_files, self._order, self.seed, self.max_captions)

    @cached_property
    def _order(self) -> Order:
        if isinstance(self.pixels, StreamedPixels):
            return WindowShuffle(self.seed, self.pixels.shard_rows, self.shuffle_buffer, self.shard_groups)
        return FullShuffle(self.seed, self.rows)

    @cached_property
    def _source(self) -> Source:
        """Source of pixels: GPU memory if the split fits there, else the store."""
        pixels = self.pixels
        return (load_on_gpu(pixels, self.device) if isinstance(pixels, PixelStore) else None) or pixels

    def _shared(self, array: np.ndarray | None) -> Tensor | None:
        return None if array is None else self._on_device(array)

    def _on_device(self, array: np.ndarray | Tensor) -> Tensor:
        if isinstance(array, Tensor):
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)
