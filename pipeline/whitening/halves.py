"""Moments of the two halves of a split: what is stable between them can be trusted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cache.reader import EmbeddingStore
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.measure import measure
from pipeline.whitening.norms import Norm

Halves = tuple[CoMoments, CoMoments]


def measure_halves(store: EmbeddingStore, pre_norm: Norm) -> Halves:
    """Return the co-moments of every other image with all its captions, and of the rest; merged they are the split's.

    Images alternate rather than being cut in the middle, because keys may be sorted by class.
    """
    found = [[_half(store, number, side, pre_norm) for number in _shards(store)] for side in (0, 1)]
    return functools.reduce(CoMoments.merge, found[0]), functools.reduce(CoMoments.merge, found[1])


def _shards(store: EmbeddingStore) -> Sequence[int]:
    return range(len(store.shards("image/view-00")))


def _half(store: EmbeddingStore, number: int, side: int, pre_norm: Norm) -> CoMoments:
    views = [store.shards(f"image/view-{view:02d}")[number].embedding[side::2] for view in range(store.views)]
    if "text" not in store.manifest.parts:
        return measure(pre_norm, views)
    text: Any = store.shards("text")[number]
    counts = np.diff(text.offsets)
    mine = np.repeat(np.arange(len(counts)) % 2 == side, counts)
    return measure(pre_norm, views, text.embedding[mine], np.concatenate([[0], np.cumsum(counts[side::2])]))
