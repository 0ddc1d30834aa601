"""Synthetic JPEGs of smooth shapes with grain, about as large on disk as photos, and words for captions."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cache.atomic import write_checksummed_json
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed, write_tar
from pipeline.project.layout import Layout

WORDS = ("a", "man", "woman", "dog", "red", "small", "plays", "runs", "on", "in", "street", "with", "two", "near")


def write_photos(layout: Layout, count: int, size: tuple[int, int]) -> PackedSplit:
    """Pack JPEGs of smooth shapes with grain, about as large on disk as photos of their size, without captions."""
    samples = [Sample(f"{number:06d}", photo(*size, number), "jpg") for number in range(count)]
    folder = layout.packed("train")
    shards = tuple(
        write_tar(folder / f"shard-{at // 500:05d}.tar", samples[at : at + 500]) for at in range(0, count, 500)
    )
    packed = PackedSplit(folder, "train", (), (), shards, {"packed": count, "captions": 0})
    write_checksummed_json(folder / "manifest.json", packed.manifest())
    kilobytes = sum(len(s.image) for s in samples) / count / 1000
    print(f"{count} JPEGs of {size[0]} x {size[1]}, {kilobytes:.0f} kB each")
    return open_packed(folder)


def photo(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG of smooth shapes with grain, about as large on disk as a photo of its size."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), 3)
    grain = rng.normal(0, 12, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
