"""Rows of one part over all its shards; each shard is checked and mapped on first access."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.errors import DamagedError, MissingError
from cache.manifest import Manifest
from cache.shard import ImageShard, PromptShard, Shard, TextShard, read_shard
from cache.token_shard import PatchShard, WordShard

Verify = Literal["hash", "size"]
_KINDS: dict[str, type[Shard]] = {
    "image": ImageShard,
    "text": TextShard,
    "captions": TextShard,
    "prompts": PromptShard,
    "foils": TextShard,
    "patches": PatchShard,
    "words": WordShard,
    "foil-words": WordShard,
}
_hashed: set[tuple[str, int, int, int]] = set()
"""Files that this process has hashed: by recorded hash, inode, size and change time."""


@dataclass(frozen=True)
class LazyShards:
    """Shards of one part, each opened on first access."""

    folder: Path
    part: str
    manifest: Manifest
    verify: Verify

    @cached_property
    def _opened(self) -> dict[int, Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the maps from pickling; the receiving process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __len__(self) -> int:
        return len(self.manifest.parts[self.part].shards)

    def __getitem__(self, number: int) -> Any:
        if number not in self._opened:
            self._opened[number] = self._open(number)
        return self._opened[number]

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def _open(self, number: int) -> Shard:
        part = self.manifest.parts[self.part]
        record = part.shards[number]
        path = self.folder / self.part / record.name
        state = _state(path, record.sha256)
        hashed = self.verify == "hash" and state not in _hashed
        kind: Any = _KINDS[self.part.partition("/")[0]]
        shard: Shard = read_shard(path, kind, part.fingerprint, record, hashed=hashed)
        if shard.rows != record.rows:
            raise DamagedError(
                f"{path}: {shard.rows} rows, but the manifest says {record.rows}. Delete it and run `dvc repro embed`."
            )
        if hashed:
            _hashed.add(state)
        return shard


class EmbeddingRows:
    """Embeddings of one part as one array of rows, over all its shards."""

    def __init__(self, shards: LazyShards) -> None:
        self._shards = shards
        records = shards.manifest.parts[shards.part].shards
        self._starts = [0, *accumulate(record.rows for record in records)]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimensions."""
        return len(self), self._shards[0].embedding.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return one row as a view, or rows by slice, index array or mask as a copy."""
        if isinstance(rows, int | np.integer):
            return self._row(int(rows))
        return self._gather(self._numbers(rows))

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield each shard's embeddings in order, mapped without a copy."""
        return (shard.embedding for shard in self._shards)

    def load(self) -> np.ndarray:
        """Return all rows in memory."""
        return np.concatenate(list(self.blocks()))

    def _row(self, row: int) -> np.ndarray:
        count = len(self)
        if not -count <= row < count:
            raise IndexError(f"row {row} of {count}")
        row %= count
        number = bisect_right(self._starts, row) - 1
        row_values: np.ndarray = self._shards[number].embedding[row - self._starts[number]]
        return row_values

    def _numbers(self, rows: Any) -> np.ndarray:
        """Convert slices, masks and negative indices to row numbers from 0."""
        count = len(self)
        if isinstance(rows, slice):
            return np.arange(*rows.indices(count))
        numbers = np.asarray(rows) if len(rows) else np.zeros(0, np.int64)
        if numbers.dtype == bool and numbers.shape == (count,):
            return np.flatnonzero(numbers)
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise IndexError(f"rows by a {numbers.dtype} array of shape {numbers.shape}: expected numbers, or a mask")
        if numbers.size and not -count <= numbers.min() <= numbers.max() < count:
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of {count}")
        return np.where(numbers < 0, numbers + count, numbers)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """Return rows in the given order, with one sort and one `take` per shard.

        Over 24 shards this has half the speed of a single memory map; one mask per shard has a quarter (benchmarks/).
        """
        gathered = np.empty((len(rows), self.shape[1]), np.float32)
        order = np.argsort(rows)
        ascending = rows[order]
        bounds = np.searchsorted(ascending, self._starts)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            here = slice(bounds[number], bounds[number + 1])
            gathered[order[here]] = self._shards[number].embedding.take(ascending[here] - self._starts[number], axis=0)
        return gathered


def _state(path: Path, sha256: str) -> tuple[str, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        raise MissingError(f"{path}: no such file. Run `dvc repro embed`.") from None
    return sha256, status.st_ino, status.st_size, status.st_mtime_ns
