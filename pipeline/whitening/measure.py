"""Measure the co-moments of images, of captions and of their pairs.

How rows are weighted: every view of an image is one image row of weight 1; every caption is one text
row of weight 1; every caption beside every view of its own image is one pair of weight 1. So the text
side of the pairs has the mean of the text rows, and an image with five captions has five pairs a view.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from pipeline.whitening.comoments import CoMoments, CrossMoments, Moments
from pipeline.whitening.norms import Norm, normalised

BLOCK_ROWS = 4096
"""Rows taken to float64 at once: 16 MB at d = 512, and large enough for BLAS to run at full speed."""


def measure_rows(rows: Float[np.ndarray, "n d"]) -> Moments:
    """Return the moments of rows in two passes over them: the mean first, then what is left."""
    d = rows.shape[1]
    if not len(rows):
        return Moments(0, np.zeros(d), np.zeros((d, d)), np.zeros(d), 0.0)
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    squares = np.einsum("nd,nd->n", centred, centred)
    return Moments(len(rows), mean, centred.T @ centred, squares @ centred, float(squares @ squares))


def measure(
    pre_norm: Norm,
    views: Sequence[Float[np.ndarray, "n d"]],
    text: Float[np.ndarray, "m e"] | None = None,
    offsets: Int[np.ndarray, " n_plus_1"] | None = None,
) -> CoMoments:
    """Return the co-moments of images (one array a view) and of their captions.

    The captions of image i are `text[offsets[i]:offsets[i + 1]]`. Rows are taken in blocks, so that memory
    does not grow with them.
    """
    rows = len(views[0])
    step = BLOCK_ROWS if text is None else max(1, BLOCK_ROWS * rows // max(rows, len(text)))
    blocks = (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))
    return functools.reduce(CoMoments.merge, (_measure_block(pre_norm, views, text, offsets, at) for at in blocks))


def _measure_block(
    pre_norm: Norm,
    views: Sequence[Float[np.ndarray, "n d"]],
    text: Float[np.ndarray, "m e"] | None,
    offsets: Int[np.ndarray, " n_plus_1"] | None,
    at: slice,
) -> CoMoments:
    images = [normalised(view[at], pre_norm) for view in views]
    image = functools.reduce(Moments.merge, map(measure_rows, images))
    if text is None or offsets is None:
        return CoMoments(pre_norm, image, None, None)
    own = np.asarray(offsets[at.start : at.stop + 1])
    captions = normalised(text[int(own[0]) : int(own[-1])], pre_norm)
    return CoMoments(pre_norm, image, measure_rows(captions), _measure_pairs(images, captions, np.diff(own)))


def _measure_pairs(
    views: Sequence[Float[np.ndarray, "n d"]], captions: Float[np.ndarray, "m e"], counts: Int[np.ndarray, " n"]
) -> CrossMoments:
    """Return the cross moments of every view beside every caption of its image.

    With c captions of image i, T their sum and X the sum of its V views, the sum over pairs needs one
    product per image and not one per pair: Σ_i (X − V x̄)(T − c t̄)ᵀ.
    """
    pairs = len(views) * len(captions)
    image = functools.reduce(np.add, views)
    if not pairs:
        d, e = image.shape[1], captions.shape[1]
        return CrossMoments(0, np.zeros(d), np.zeros(e), np.zeros((d, e)))
    image_mean = counts @ image / pairs
    text_mean = captions.mean(axis=0)
    text = _sums(captions, counts) - counts[:, None] * text_mean
    return CrossMoments(pairs, image_mean, text_mean, (image - len(views) * image_mean).T @ text)


def _sums(rows: Float[np.ndarray, "m e"], counts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n e"]:
    """Return the sum of each image's own rows; an image without rows has the sum zero."""
    if np.all(counts == 1):
        return rows
    sums = np.zeros((len(counts), rows.shape[1]))
    some = counts > 0
    sums[some] = np.add.reduceat(rows, (np.cumsum(counts) - counts)[some])
    return sums
