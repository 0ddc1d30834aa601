"""Build a searchable gallery of a split: thumbnails, captions, and the teacher's embeddings in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8

from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import open_packed
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.data.user_images import thumbnail
from pipeline.project.layout import Layout

THUMBNAIL_SIDE = 128
"""In pixels; close to the input size of small students, about 3 kB per image."""


@dataclass(frozen=True)
class QuantizedRows:
    """Unit vectors in 8 bits: row i is scales[i] · values[i]."""

    values: Int8[np.ndarray, "n d"]
    scales: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Gallery:
    """Images and captions of a split, in the order of its keys."""

    split: str
    names: tuple[str, ...]
    """The first caption of each image, or its key."""
    thumbnails: tuple[bytes, ...]
    """WebP files."""
    images: QuantizedRows
    texts: tuple[str, ...]
    captions: QuantizedRows


def quantize_rows(rows: Float[np.ndarray, "n d"]) -> QuantizedRows:
    """Quantize rows of length one to 8 bits, each with its own scale.

    q = round(127 x / max|x|), so each entry has an error of at most max|x| / 254. The errors of the d entries are
    independent: with max|x| = 0.2, as in CLIP's embeddings, a cosine has an error of about 5·10⁻⁴.
    """
    vectors = l2_normalize(rows)
    scales = np.maximum(np.abs(vectors).max(axis=1), np.finfo(np.float32).tiny) / 127
    return QuantizedRows(np.rint(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32))


def build_gallery(split: str, count: int, layout: Layout) -> Gallery:
    """Return `count` evenly spaced images of a split, with all their captions.

    Raises:
        CacheError: the split was never packed or embedded, or is damaged.
    """
    store = EmbeddingStore.open(layout.embeddings(split))
    sample = np.unique(np.linspace(0, store.rows - 1, min(count, store.rows)).astype(int))
    keys = [store.keys[row] for row in sample]
    samples = read_samples(open_packed(layout.packed(split)), keys)
    texts = [samples[key].captions for key in keys]
    captions = np.empty((0, store.dim), np.float32)
    if any(texts):
        offsets = store.offsets
        captions = store.text().load()[np.concatenate([np.arange(offsets[r], offsets[r + 1]) for r in sample])]
    return Gallery(
        split,
        tuple(next(iter(captions_), key) for key, captions_ in zip(keys, texts, strict=True)),
        tuple(thumbnail(samples[key].image, THUMBNAIL_SIDE) for key in keys),
        quantize_rows(store.image().load()[sample]),
        tuple(caption for captions_ in texts for caption in captions_),
        quantize_rows(captions),
    )
