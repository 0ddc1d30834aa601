"""Targets that are not resident: rows of the memory-mapped cache, whitened when a batch asks for them.

They are indexed as the arrays are that `load_targets` makes of small splits. What is measured on the whole (units of
losses, the start of heads) is measured on MEASURED_ROWS of them, evenly spaced: all of them where there are no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64

from cache.manifest import TEXT
from cache.reader import EmbeddingStore
from cache.rows import EmbeddingRows
from pipeline.students.text_tower import truncate_tokens
from pipeline.whitening.spaces import Modality, TargetSpace

MEASURED_ROWS = 32_768
"""Of all rows of a modality: a variance is then known to 0.8 % in each dimension, and to 0.1 % over 100 of them."""
Index = Int64[np.ndarray, " b"]


class WhitenedRows:
    """All captions of a split in a target space: indexed like an (m, k) array."""

    def __init__(
        self, rows: EmbeddingRows, space: TargetSpace, modality: Modality, columns: slice = slice(None)
    ) -> None:
        self._rows, self._space, self._modality, self._columns = rows, space, modality, columns
        self.shape = (len(rows), self[np.zeros(1, np.int64)].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index) -> Float[np.ndarray, "b k"]:
        return self._space.to_target(self._rows[np.asarray(rows)], self._modality)[:, self._columns]

    def columns(self, columns: slice) -> WhitenedRows:
        """Return the same rows with some of their dimensions: one head's share of a target."""
        return WhitenedRows(self._rows, self._space, self._modality, columns)

    def sample(self, count: int = MEASURED_ROWS) -> Float[np.ndarray, "s k"]:
        """Return rows at even distances."""
        return self[even_rows(len(self), count)]


class WhitenedViews:
    """All views of a split in a target space: indexed like a (v, n, k) array."""

    def __init__(self, views: Sequence[WhitenedRows]) -> None:
        self._views = views
        self.shape = (len(views), *views[0].shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: tuple[int | Index, Index]) -> Float[np.ndarray, "b k"]:
        view, rows = np.broadcast_arrays(*index)
        found = np.empty((len(rows), self.shape[2]), np.float32)
        for number in np.unique(view).tolist():
            mine = view == number
            found[mine] = self._views[number][rows[mine]]
        return found

    def columns(self, columns: slice) -> WhitenedViews:
        """Return the same views with some of their dimensions."""
        return WhitenedViews([view.columns(columns) for view in self._views])

    def sample(self, count: int = MEASURED_ROWS) -> Float[np.ndarray, "v s k"]:
        """Return the views of rows at even distances."""
        return np.stack([view.sample(max(1, count // len(self))) for view in self._views])


class CaptionTokenRows:
    """The token ids of all captions: indexed like an (m, l) array."""

    def __init__(self, store: EmbeddingStore, context: int) -> None:
        self._shards, self._context = store.shards(TEXT), context
        records = store.manifest.parts[TEXT].shards
        self._starts = np.concatenate([[0], np.cumsum([record.rows for record in records])])

    def __getitem__(self, rows: Index) -> Int32[np.ndarray, "b l"]:
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        picked = [self._shards[int(n)].tokens[int(row - self._starts[n])] for n, row in zip(numbers, rows, strict=True)]
        return truncate_tokens(np.stack(picked), self._context)


def even_rows(rows: int, count: int) -> Index:
    """Return `count` row numbers at even distances, or all where there are no more."""
    return np.linspace(0, rows - 1, min(count, rows)).astype(np.int64)


def take_columns(rows: Any, columns: slice) -> Any:
    """Return some dimensions of targets: of an array, or of rows that are not resident."""
    return rows.columns(columns) if isinstance(rows, WhitenedRows | WhitenedViews) else rows[..., columns]


def measured(rows: Any) -> np.ndarray:
    """Return what statistics are taken of: an array as it is, a sample of rows that are not resident."""
    if isinstance(rows, WhitenedRows | WhitenedViews):
        return rows.sample()
    array: np.ndarray = rows
    return array
