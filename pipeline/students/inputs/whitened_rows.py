"""Targets that are not in memory: rows of the memory-mapped cache, whitened on access.

They are indexed like the arrays that `load_targets` makes for small splits. Statistics of the whole (units of losses,
initialization of heads) are measured on MEASURED_ROWS evenly spaced rows, or on all if there are fewer.
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
"""Rows of a modality that are measured: enough for a variance to 0.8 % per dimension, and to 0.1 % over 100 of them."""
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
        """Return the same rows with some of their dimensions: one head's part of a target."""
        return WhitenedRows(self._rows, self._space, self._modality, columns)

    def sample(self, count: int = MEASURED_ROWS) -> Float[np.ndarray, "s k"]:
        """Return evenly spaced rows."""
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
        whitened = np.empty((len(rows), self.shape[2]), np.float32)
        for number in np.unique(view).tolist():
            mine = view == number
            whitened[mine] = self._views[number][rows[mine]]
        return whitened

    def columns(self, columns: slice) -> WhitenedViews:
        """Return the same views with some of their dimensions."""
        return WhitenedViews([view.columns(columns) for view in self._views])

    def sample(self, count: int = MEASURED_ROWS) -> Float[np.ndarray, "v s k"]:
        """Return the views of evenly spaced rows."""
        return np.stack([view.sample(max(1, count // len(self))) for view in self._views])


class CaptionTokenRows:
    """The token ids of all captions: indexed like an (m, l) array."""

    def __init__(self, store: EmbeddingStore, context: int, part: str = TEXT) -> None:
        self._shards, self._context = store.shards(part), context
        records = store.manifest.parts[part].shards
        self._starts = np.concatenate([[0], np.cumsum([record.rows for record in records])])

    def __getitem__(self, rows: Index) -> Int32[np.ndarray, "b l"]:
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        picked = [self._shards[int(n)].tokens[int(row - self._starts[n])] for n, row in zip(numbers, rows, strict=True)]
        return truncate_tokens(np.stack(picked), self._context)


def even_rows(rows: int, count: int) -> Index:
    """Return `count` evenly spaced row numbers, or all if there are fewer."""
    return np.linspace(0, rows - 1, min(count, rows)).astype(np.int64)


def take_columns(rows: Any, columns: slice) -> Any:
    """Return some dimensions of targets, given as an array or as rows that are not in memory."""
    return rows.columns(columns) if isinstance(rows, WhitenedRows | WhitenedViews) else rows[..., columns]


def measured(rows: Any) -> np.ndarray:
    """Return the rows for statistics: an array unchanged, or a sample of rows that are not in memory."""
    if isinstance(rows, WhitenedRows | WhitenedViews):
        return rows.sample()
    array: np.ndarray = rows
    return array
