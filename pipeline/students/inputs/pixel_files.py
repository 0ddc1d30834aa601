"""Decoded images on disk: `pixels.u8`, the concatenated images, and `index.h5`, their offsets and shapes.

The index has the fingerprint of its folder and the SHA-256 of each block of the pixels (cache/blocks.py), so that
damaged or exchanged files are detected.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cache.arrays import read_arrays, write_arrays
from cache.atomic import atomic_write
from cache.blocks import BlockHasher, BlockVerifier
from cache.errors import CacheError
from pipeline.data.errors import bad_image_as_failure
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit, Sample
from pipeline.data.prefetch import prefetch_map
from pipeline.data.views import FULL_BOX, Box, apply_view, center_view, resize_shorter_side
from pipeline.project.progress import progress

PIXELS, INDEX = "pixels.u8", "index.h5"
Arrays = dict[str, np.ndarray]


def read_index(folder: Path) -> Arrays | None:
    """Return the arrays of an index; None if it is damaged, of another folder, or the pixels have another size."""
    try:
        index = read_arrays(folder / INDEX)
        size = int(index.arrays["shape"].prod(axis=1).sum()) * 3
        whole = (folder / PIXELS).stat().st_size == size and "block_sha256" in index.arrays
    except (CacheError, KeyError, FileNotFoundError):
        return None
    return index.arrays if whole and index.attributes.get("folder") == folder.name else None


def decode_pixels(packed: PackedSplit, side: int, center: bool, folder: Path, workers: int) -> Arrays:
    """Decode every image of a split once, and return the arrays of the index, which is written last.

    Raises:
        PipelineError: an image cannot be decoded.
        CacheError: the packed split is damaged, or the disk is full.
    """
    keys, shapes, frames, hasher = [], [], [], BlockHasher()
    samples = (sample for i in range(len(packed.shards)) for sample in packed.read(i))

    def kept(sample: Sample) -> tuple[str, Box, UInt8[np.ndarray, "h w 3"]]:
        with bad_image_as_failure(sample.key, sample.source):
            image = decode(sample.image)
        if not center:
            return sample.key, FULL_BOX, resize_shorter_side(image, side)
        view = center_view(*image.size)
        return sample.key, view.box, apply_view(image, view, side)

    with (
        atomic_write(folder / PIXELS) as temporary,
        temporary.open("wb") as file,
        progress(f"decode {packed.split}", packed.rows, "images") as advance,
    ):
        for key, frame, pixels in prefetch_map(kept, samples, workers, 4 * workers):
            data = np.ascontiguousarray(pixels).reshape(-1).data
            file.write(data)
            hasher.update(data)
            keys.append(key)
            shapes.append(pixels.shape[:2])
            frames.append(frame)
            advance()
    shape = np.array(shapes, np.int64).reshape(-1, 2)
    sizes = shape[:, 0] * shape[:, 1] * 3
    arrays = {
        "keys": np.array(keys),
        "offset": np.cumsum(sizes) - sizes,
        "shape": shape,
        "frame": np.array(frames, np.float32).reshape(-1, 4),
        "block_sha256": hasher.digests(),
    }
    write_arrays(folder / INDEX, arrays, {"folder": folder.name})
    return read_arrays(folder / INDEX).arrays


def pixel_faults(folder: Path) -> Iterator[str]:
    """Yield one line for each fault in a finished folder of pixels."""
    index = read_index(folder)
    if index is None:
        yield f"{folder / INDEX}: damaged, or not of this folder and its pixels. Delete {folder}: it is made again."
        return
    yield from BlockVerifier(folder / PIXELS, np.memmap(folder / PIXELS, np.uint8, "r"), index["block_sha256"]).faults()
