"""Training pixels: every image decoded once into a memory-mapped file, and cut to views in batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cache.blocks import BlockVerifier
from cache.fingerprint import fingerprint
from cache.strings import StringColumn
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import View, apply_view, required_side
from pipeline.project.code_versions import code_version, record_maker
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.pixel_files import PIXELS, decode_pixels, read_index

PixelMode = Literal["stored", "streamed", "auto"]
WAIT_SECONDS = 24 * 3600.0
"""Time to wait for another process that decodes the same pixels."""
_LEFT_FREE = 0.1
"""Fraction of the free space that `auto` leaves."""
_PER_PROCESS = ("as_array", "_bytes", "_pool", "_verifier")


@dataclass(frozen=True)
class PixelStore:
    """Decoded images of a split, in the packed order."""

    path: Path
    keys: Sequence[str]
    offset: Int[np.ndarray, " n"]
    shape: Int[np.ndarray, "n 2"]
    """Height and width of each image."""
    kept_box: Float[np.ndarray, "n 4"]
    """Box of the original image that is kept: all of it, or the center view."""
    workers: int = 0
    digests: UInt8[np.ndarray, "blocks 32"] | None = None
    """SHA-256 of each block of the file, checked at its first use; None: only sizes are checked."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _PER_PROCESS}

    def image(self, row: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the kept pixels of one image, neither copied nor checked; use `batch` for checked pixels."""
        height, width = self.shape[row]
        start = self.offset[row]
        return self._bytes[start : start + height * width * 3].reshape(height, width, 3)

    @cached_property
    def as_array(self) -> UInt8[np.ndarray, "n h w 3"] | None:
        """All images as one memory-mapped, unchecked array, or None if their sizes differ."""
        if (self.shape != self.shape[0]).any():
            return None
        return self._bytes.reshape(len(self), *map(int, self.shape[0]), 3)

    def batch(
        self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """Return views of some images: boxes as fractions of the original, as in the embedding shards.

        If the kept pixels already are the views, this is one gather; otherwise each is resampled by `apply_view`.

        Raises:
            DamagedError: the pixels of these images changed since they were decoded.
            ValueError: a box exceeds the kept box.
        """
        self._verify(rows)
        if (images := self.as_array) is not None and self.is_exact_view(rows, boxes, size):
            pixels: UInt8[np.ndarray, "b s s 3"] = images[rows]
            pixels[flips] = pixels[flips, :, ::-1]
            return pixels
        return self._resampled(rows, self.to_local_boxes(rows, boxes), flips, size)

    def is_exact_view(self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], size: int) -> bool:
        """Return whether the kept pixels of some images already are these views."""
        return bool((self.shape[rows] == size).all() and np.array_equal(boxes, self.kept_box[rows]))

    @property
    def nbytes(self) -> int:
        """Return the total size of all images in bytes."""
        return int(self.shape.prod(axis=1).sum()) * 3

    @property
    def flat_pixels(self) -> UInt8[np.ndarray, "p 3"]:
        """Return all pixels, memory-mapped, after checking them; raises DamagedError."""
        if self._verifier is not None:
            self._verifier.verify_all(self._pool.map if self.workers else map)
        return self._bytes.reshape(-1, 3)

    @cached_property
    def _bytes(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        return np.memmap(self.path, np.uint8, "r")

    @cached_property
    def _verifier(self) -> BlockVerifier | None:
        return None if self.digests is None else BlockVerifier(self.path, self._bytes, self.digests)

    def _verify(self, rows: Int[np.ndarray, " b"]) -> None:
        if self._verifier is not None:
            stops = self.offset[rows] + self.shape[rows].prod(axis=1) * 3
            self._verifier.verify(self.offset[rows], stops, self._pool.map if self.workers else map)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="pixels")

    def _resampled(
        self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[np.ndarray, "b s s 3"]:
        pixels = np.empty((len(rows), size, size, 3), np.uint8)

        def fill(part: Iterable[int]) -> None:
            for i in part:
                view = View(tuple(boxes[i].tolist()), bool(flips[i]))
                pixels[i] = apply_view(self.image(int(rows[i])), view, size)

        if self.workers:
            list(self._pool.map(fill, np.array_split(np.arange(len(rows)), self.workers)))
        else:
            fill(range(len(rows)))
        return pixels

    def to_local_boxes(self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"]) -> Float[np.ndarray, "b 4"]:
        """Return boxes as fractions of the kept box of each image.

        Raises:
            ValueError: a box exceeds it.
        """
        frames = self.kept_box[rows]
        corner, extent = np.tile(frames[:, :2], 2), np.tile(frames[:, 2:] - frames[:, :2], 2)
        inside = (boxes.astype(np.float64) - corner) / extent
        # Boxes are rounded to float32; 1e-6 is about sixteen times its resolution near 1.
        if (inside < -1e-6).any() or (inside > 1 + 1e-6).any():
            raise ValueError(f"{self.path}: only the center view was kept, and another view is asked for")
        clipped: Float[np.ndarray, "b 4"] = np.clip(inside, 0, 1)
        return clipped


def _kept(packed: PackedSplit, size: int, views: Sequence[Mapping[str, Any]]) -> tuple[bool, int, str]:
    """Return whether only center views are kept, the kept side, and the fingerprint of the store."""
    center = all(view["kind"] == "center" for view in views)
    side = size if center else required_side(size, views)
    images = [shard.images_sha256 for shard in packed.shards]
    facts = {"format": code_version("pixels"), "images": images, "side": side, "center": center}
    return center, side, fingerprint(facts)


def choose_pixel_mode(
    packed: PackedSplit, size: int, views: Sequence[Mapping[str, Any]], layout: Layout
) -> tuple[PixelMode, str]:
    """Return whether the pixels of a split are stored or streamed on this disk, and the reason in a sentence.

    Stored if they already exist, or if their estimated size leaves a tenth of the free space. Center views take side² ·
    3 bytes per image; whole images are estimated with a 4:3 aspect ratio.
    """
    center, side, name = _kept(packed, size, views)
    if read_index(layout.store / f"pixels-{name}") is not None:
        return "stored", "they are decoded already"
    needed = int(packed.rows * side * side * 3 * (1 if center else 4 / 3))
    layout.store.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(layout.store).free
    reason = f"{packed.rows} images take about {_megabytes(needed)} decoded, and {_megabytes(free)} are free"
    return ("stored" if needed <= (1 - _LEFT_FREE) * free else "streamed"), reason


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def open_pixel_store(
    packed: PackedSplit, size: int, views: Sequence[Mapping[str, Any]], layout: Layout, runtime: Runtime
) -> PixelStore:
    """Return the pixels of a split, decoded now if missing.

    `views` are the facts of the views that will be used. For the center view alone, it is kept at `size` × `size`;
    otherwise whole images are kept with their aspect ratio, with a shorter side at which every crop has `size` real
    pixels and a margin, and never enlarged.

    Raises:
        PipelineError, CacheError: an image cannot be decoded, the disk is full, …
    """
    center, side, name = _kept(packed, size, views)
    store = WorkStore(layout.store)
    folder = store.workspace("pixels", name)
    store.pin("pixels", packed.folder, [f"{folder.name}/"])
    if (index := read_index(folder)) is None:
        with store.lock("pixels", name, WAIT_SECONDS):
            if (index := read_index(folder)) is None:
                record_maker(folder, "pixels")
                index = decode_pixels(packed, side, center, folder, runtime.workers)
    return PixelStore(
        folder / PIXELS,
        StringColumn(index["keys"]),
        index["offset"],
        index["shape"],
        index["frame"],
        runtime.workers,
        index["block_sha256"] if runtime.verify == "hash" else None,
    )
