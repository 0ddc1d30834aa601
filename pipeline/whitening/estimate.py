"""Estimate the co-moments of images, captions and their pairs.

Weights: every view of an image is one image row of weight 1; every caption is one text row of weight 1; every
combination of a caption and a view of its image is one pair of weight 1. The text side of the pairs therefore has the
mean of the text rows, and an image with five captions has five pairs per view.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cache.manifest import TEXT, view_name
from cache.reader import EmbeddingStore
from pipeline.whitening.comoments import CoMoments, CrossMoments, Moments, NormMode, normalize_rows

CenteredRows = tuple[Float[np.ndarray, " d"], Float[np.ndarray, "n d"]]
"""A mean, and the rows minus this mean."""
BLOCK_ROWS = 4096
"""Rows converted to float64 at once: 16 MB at d = 512, and large enough for BLAS to run at full speed."""


def estimate_moments(rows: Float[np.ndarray, "n d"]) -> Moments:
    """Return the moments of rows in two passes: the mean first, then the centered sums."""
    return _moments(*_centered(rows.astype(np.float64)))


def estimate_comoments(
    pre_norm: NormMode,
    views: Sequence[Float[np.ndarray, "n d"]],
    text: Float[np.ndarray, "m e"] | None = None,
    offsets: Int[np.ndarray, " n_plus_1"] | None = None,
) -> CoMoments:
    """Return the co-moments of images (one array per view) and of their captions.

    The captions of image i are `text[offsets[i]:offsets[i + 1]]`. Rows are processed in blocks, so memory does not grow
    with their number.
    """
    rows = len(views[0])
    step = BLOCK_ROWS if text is None else max(1, BLOCK_ROWS * rows // max(rows, len(text)))
    blocks = (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))
    return functools.reduce(CoMoments.merge, (_measure_block(pre_norm, views, text, offsets, at) for at in blocks))


def _measure_block(
    pre_norm: NormMode,
    views: Sequence[Float[np.ndarray, "n d"]],
    text: Float[np.ndarray, "m e"] | None,
    offsets: Int[np.ndarray, " n_plus_1"] | None,
    at: slice,
) -> CoMoments:
    images = [_centered(normalize_rows(view[at], pre_norm)) for view in views]
    image = functools.reduce(Moments.merge, (_moments(*each) for each in images))
    if text is None or offsets is None:
        return CoMoments(pre_norm, image, None, None)
    own = np.asarray(offsets[at.start : at.stop + 1])
    captions = _centered(normalize_rows(text[int(own[0]) : int(own[-1])], pre_norm))
    return CoMoments(pre_norm, image, _moments(*captions), _pairs(images, captions, np.diff(own)))


def _centered(rows: Float[np.ndarray, "n d"]) -> CenteredRows:
    """Return the mean of rows, and the same array, centered in place."""
    mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    rows -= mean
    return mean, rows


def _moments(mean: Float[np.ndarray, " d"], centered: Float[np.ndarray, "n d"]) -> Moments:
    squares = np.einsum("nd,nd->n", centered, centered)
    return Moments(len(centered), mean, centered.T @ centered, squares @ centered, float(squares @ squares))


def _pairs(views: Sequence[CenteredRows], captions: CenteredRows, counts: Int[np.ndarray, " n"]) -> CrossMoments:
    """Return the cross moments over all combinations of a view and a caption of the same image.

    Let Y be the sum of an image's V centered views and U the sum of its c centered captions. The sum over pairs needs
    one product per image instead of one per pair: Σ YUᵀ, because ΣU = 0. The mean of the images over pairs differs from
    that over images by Σ cY/p, with p pairs.
    """
    pairs = len(views) * len(captions[1])
    image = functools.reduce(np.add, [rows for _, rows in views])
    mean = functools.reduce(np.add, [mean for mean, _ in views]) / len(views)
    offset = counts.astype(np.float64) @ image / max(pairs, 1)
    return CrossMoments(pairs, mean + offset, captions[0], image.T @ _sums(captions[1], counts))


def _sums(rows: Float[np.ndarray, "m e"], counts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n e"]:
    """Return the sum of each image's rows; zero for an image without rows."""
    if np.all(counts == 1):
        return rows
    sums = np.zeros((len(counts), rows.shape[1]))
    some = counts > 0
    sums[some] = np.add.reduceat(rows, (np.cumsum(counts) - counts)[some])
    return sums


SplitHalves = tuple[CoMoments, CoMoments]


def split_half_moments(store: EmbeddingStore, pre_norm: NormMode) -> SplitHalves:
    """Return the co-moments of the even and of the odd images with all their captions; merged, they are the split's.

    Images alternate between the halves, because keys may be sorted by class.
    """
    halves = [[_half(store, number, side, pre_norm) for number in _shards(store)] for side in (0, 1)]
    return functools.reduce(CoMoments.merge, halves[0]), functools.reduce(CoMoments.merge, halves[1])


def _shards(store: EmbeddingStore) -> Sequence[int]:
    return range(store.num_shards)


def _half(store: EmbeddingStore, number: int, side: int, pre_norm: NormMode) -> CoMoments:
    views = [store.shards(view_name(view))[number].embedding[side::2] for view in range(store.views)]
    if not store.has_captions:
        return estimate_comoments(pre_norm, views)
    text: Any = store.shards(TEXT)[number]
    counts = np.diff(text.offsets)
    mine = np.repeat(np.arange(len(counts)) % 2 == side, counts)
    return estimate_comoments(pre_norm, views, text.embedding[mine], np.concatenate([[0], np.cumsum(counts[side::2])]))
