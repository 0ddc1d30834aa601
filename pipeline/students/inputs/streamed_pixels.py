"""Training pixels that are not stored: decoded from the packed shards at each use, by worker processes.

The pixels are the same as those of the store of decoded images (pixels.py) for the same views; only the order differs,
because whole shards are read one after another (orders.py).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cache.errors import CacheError
from pipeline.data.errors import bad_image_as_failure
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.packing.shard_images import ShardImages, check_images, open_images
from pipeline.data.views import View, apply_view, center_view, required_side, resize_shorter_side
from pipeline.project.errors import PipelineError
from pipeline.project.params import Runtime, Verify

ViewRequest = tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b 4"], Bool[np.ndarray, " b"]]
"""Rows, the box of each in fractions of the original, and whether it is mirrored."""
Pixels = UInt8[Tensor, "b s s 3"]

CHECKED_AHEAD = 64
"""Number of batches by which the check of a shard starts before its first image is needed."""
MAX_OPEN_SHARDS = 64
"""Number of shards whose image locations a process keeps: about 100 kB each at 1,000 rows."""
PREFETCHED = 2
"""Batches that each process prepares in advance."""
_PER_PROCESS = ("_opened", "_checked", "starts")


@dataclass(frozen=True)
class StreamedPixels:
    """The images of a packed split, decoded at each use."""

    packed: PackedSplit
    side: int
    """Shorter side to which an image is scaled before a crop."""
    center: bool
    """Whether only center views are used, which are cropped from the original image."""
    verify: Verify = "hash"
    workers: int = 0

    @classmethod
    def open(
        cls, packed: PackedSplit, size: int, views: Sequence[Mapping[str, Any]], runtime: Runtime
    ) -> StreamedPixels:
        """Return the pixels of a split for views with these facts."""
        center = all(view["kind"] == "center" for view in views)
        side = size if center else required_side(size, views)
        return cls(packed, side, center, runtime.verify, runtime.workers)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _PER_PROCESS}

    @property
    def shard_rows(self) -> tuple[int, ...]:
        """Number of images of each shard."""
        return tuple(shard.rows for shard in self.packed.shards)

    @cached_property
    def starts(self) -> Int[np.ndarray, " shards_plus_1"]:
        """The first row of each shard, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.shard_rows)]).astype(np.int64)

    def batch(
        self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """Return views of some images, after checking their shards.

        Raises:
            CacheError: a shard, or a file it refers to, is missing, damaged or changed.
            PipelineError: an image cannot be decoded.
        """
        for number in self.shards_of(rows):
            self.check(number)
        return self.decode(rows, boxes, flips, size)

    def decode(
        self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """Return views of some images whose shards were checked; each shard is read in its own order."""
        pixels = np.empty((len(rows), size, size, 3), np.uint8)
        order = np.argsort(rows, kind="stable")
        shards = np.searchsorted(self.starts, rows[order], side="right") - 1
        for number in np.unique(shards).tolist():
            places = order[shards == number]
            own = (rows[places] - self.starts[number]).tolist()
            images = self._images(number)
            for place, row, data in zip(places.tolist(), own, images.images(own), strict=True):
                view = View(tuple(boxes[place].tolist()), bool(flips[place]))
                with bad_image_as_failure(images.key(row), str(images.path)):
                    pixels[place] = self._cut(data, view, size)
        return pixels

    def _cut(self, data: bytes, view: View, size: int) -> UInt8[np.ndarray, "s s 3"]:
        """Return the same pixels as the store of decoded images: a view of the image itself, or of its scaled copy."""
        image = decode(data)
        if not self.center:
            return apply_view(resize_shorter_side(image, self.side), view, size)
        if center_view(*image.size).box != view.box:
            raise ValueError("only the center view can be streamed, and another view is asked for")
        return apply_view(image, view, size)

    def shards_of(self, rows: Int[np.ndarray, " b"]) -> list[int]:
        """Return the shards of some rows."""
        shards: list[int] = np.unique(np.searchsorted(self.starts, rows, side="right") - 1).tolist()
        return shards

    def check(self, number: int) -> None:
        """Check a shard, once per process; raises CacheError."""
        if number not in self._checked:
            check_images(self.packed, number, self.verify)
            self._checked.add(number)

    @contextmanager
    def stream(self, requests: Iterable[ViewRequest], size: int) -> Iterator[Iterator[Pixels]]:
        """Yield the pixels of requests in order, decoded in advance by `workers` processes.

        Raises:
            CacheError, PipelineError: as `batch`, at the affected request.
        """
        workers = min(self.workers, len(os.sched_getaffinity(0)))
        ahead: dict[str, Any] = {"prefetch_factor": PREFETCHED, "multiprocessing_context": "spawn"} if workers else {}
        with ThreadPoolExecutor(1, "check") as pool:
            checked = _Requests(self, requests, pool)
            answers = iter(DataLoader(_Decoder(self, size), None, sampler=checked, num_workers=workers, **ahead))
            try:
                yield map(_or_raise, answers)
            finally:
                if isinstance(answers, _MultiProcessingDataLoaderIter):
                    with suppress(RuntimeError):  # a process that is told to end while it starts may be aborted
                        answers._shutdown_workers()

    def _images(self, number: int) -> ShardImages:
        """Return an opened shard; recently used ones stay open."""
        if number not in self._opened:
            if len(self._opened) >= MAX_OPEN_SHARDS:
                self._opened.pop(next(iter(self._opened)))
            self._opened[number] = open_images(self.packed, number)
        return self._opened[number]

    @cached_property
    def _opened(self) -> dict[int, ShardImages]:
        return {}

    @cached_property
    def _checked(self) -> set[int]:
        return set()


class _Requests:
    """Requests in order, each delayed until its shards have been checked.

    A failed check is passed on in place of its request and ends the sequence. If it were raised here, the loader would
    end while its processes start, and they would print tracebacks.
    """

    def __init__(self, pixels: StreamedPixels, requests: Iterable[ViewRequest], pool: ThreadPoolExecutor) -> None:
        self.pixels, self.requests, self.pool = pixels, iter(requests), pool

    def __iter__(self) -> Iterator[ViewRequest | Exception]:
        waiting: deque[tuple[ViewRequest, Future[None]]] = deque()
        while True:
            for request in islice(self.requests, CHECKED_AHEAD - len(waiting)):
                waiting.append((request, self.pool.submit(self._check, request[0])))
            if not waiting:
                return
            request, check = waiting.popleft()
            if error := check.exception():
                if not isinstance(error, (CacheError, PipelineError)):
                    raise error
                yield error
                return
            yield request

    def _check(self, rows: Int[np.ndarray, " b"]) -> None:
        for number in self.pixels.shards_of(rows):
            self.pixels.check(number)


class _Decoder(Dataset[Any]):
    """Function of each worker process; errors are returned as values, because torch would add a traceback."""

    def __init__(self, pixels: StreamedPixels, size: int) -> None:
        self.pixels, self.size = pixels, size

    def __getitem__(self, request: ViewRequest | Exception) -> np.ndarray | Exception:
        if isinstance(request, Exception):
            return request
        try:
            return self.pixels.decode(*request, self.size)
        except (CacheError, PipelineError, ValueError) as error:
            return error


def _or_raise(answer: Any) -> Pixels:
    if isinstance(answer, Exception):
        raise answer
    pixels: Pixels = answer
    return pixels
