"""Tokens of one part over all its shards, decoded on access; nothing is kept in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from cache.rows import LazyShards
from cache.token_codecs import decode_tokens
from cache.token_shard import PatchShard, WordShard, shard_codec


class PatchRows:
    """Patch tokens by image."""

    def __init__(self, shards: LazyShards) -> None:
        self._shards = shards
        self._starts = [0, *accumulate(record.rows for record in shards.manifest.parts[shards.part].shards)]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def places(self) -> int:
        """Number of patches per image."""
        return int(self._shards[0].codes.shape[1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return (b, p, d) float32 tokens of images, in the given order."""
        blocks = [(position, self._decoded(int(row))) for position, row in enumerate(rows)]
        return np.stack([block for _, block in blocks])

    def _decoded(self, row: int) -> np.ndarray:
        number = bisect_right(self._starts, row) - 1
        shard: PatchShard = self._shards[number]
        at = row - self._starts[number]
        return decode_tokens(shard_codec(shard), shard.codes[at], None if shard.scale is None else shard.scale[at])


class WordRows:
    """Word tokens by caption (ragged), and the index of the word of each token."""

    def __init__(self, shards: LazyShards) -> None:
        self._shards = shards
        self._starts = [0, *accumulate(record.rows for record in shards.manifest.parts[shards.part].shards)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (t, d) float32 tokens of a caption and the (t,) word indices."""
        number = bisect_right(self._starts, row) - 1
        shard: WordShard = self._shards[number]
        at = row - self._starts[number]
        part = slice(int(shard.offsets[at]), int(shard.offsets[at + 1]))
        scale = None if shard.scale is None else shard.scale[part]
        return decode_tokens(shard_codec(shard), shard.codes[part], scale), np.asarray(shard.word[part])

    def hashes(self) -> Iterator[bytes]:
        """Yield the SHA-256 of each caption."""
        return (bytes(sha) for shard in self._shards for sha in shard.caption_sha)
