"""SHA-256 of a large file by blocks: computed during writing, verified at the first access to each block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from cache.errors import DamagedError

BLOCK_BYTES = 1 << 18
"""Bytes per digest: a random access costs at most one hash of this size, once, and 32 bytes of the index."""
DIGEST_BYTES = 32

Map = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
"""`map`, or the `map` of a thread pool: hashlib releases the interpreter lock."""


class BlockHasher:
    """Block digests of a file that is written sequentially."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._digest = hashlib.sha256()
        self._room = BLOCK_BYTES

    def update(self, data: memoryview) -> None:
        """Add the next bytes of the file."""
        while len(data) >= self._room:
            self._digest.update(data[: self._room])
            data = data[self._room :]
            self._digests.append(self._digest.digest())
            self._digest, self._room = hashlib.sha256(), BLOCK_BYTES
        self._digest.update(data)
        self._room -= len(data)

    def digests(self) -> UInt8[np.ndarray, "blocks 32"]:
        """Return the digests of all blocks, including a shorter last one."""
        last = [self._digest.digest()] if self._room < BLOCK_BYTES else []
        return np.frombuffer(b"".join([*self._digests, *last]), np.uint8).reshape(-1, DIGEST_BYTES)


@dataclass(frozen=True)
class BlockVerifier:
    """A mapped file whose blocks are hashed once, before their first use."""

    path: Path
    data: np.memmap[Any, np.dtype[np.uint8]]
    digests: UInt8[np.ndarray, "blocks 32"]

    @cached_property
    def _unverified(self) -> Bool[np.ndarray, " blocks"]:
        return np.ones(len(self.digests), bool)

    def verify(self, starts: Int[np.ndarray, " n"], stops: Int[np.ndarray, " n"], run: Map = map) -> None:
        """Hash every block in some byte ranges that was not hashed before.

        Raises:
            DamagedError: a block's hash differs from the recorded one.
        """
        if not self._unverified.any():
            return
        first, last = starts // BLOCK_BYTES, (stops - 1) // BLOCK_BYTES
        longest = int((last - first).max(initial=0)) + 1
        blocks = np.unique(np.concatenate([np.minimum(first + step, last) for step in range(longest)]))
        for _ in run(self._verify_block, blocks[self._unverified[blocks]].tolist()):
            pass

    def verify_all(self, run: Map = map) -> None:
        """Hash every block that was not hashed before; raises DamagedError as `verify` does."""
        for _ in run(self._verify_block, np.flatnonzero(self._unverified).tolist()):
            pass

    def faults(self) -> Iterator[str]:
        """Yield one line for each block whose hash differs from the recorded one."""
        for number in range(len(self.digests)):
            try:
                self._verify_block(number)
            except DamagedError as error:
                yield str(error)

    def _verify_block(self, number: int) -> None:
        start = number * BLOCK_BYTES
        digest = hashlib.sha256(self.data[start : start + BLOCK_BYTES].data).digest()
        if digest != (expected := self.digests[number].tobytes()):
            raise DamagedError(
                f"{self.path}: damaged: bytes {start} to {min(start + BLOCK_BYTES, len(self.data)) - 1} hash to "
                f"{digest.hex()[:12]}, expected {expected.hex()[:12]}. Delete {self.path.parent}: the next run makes "
                "it again."
            )
        self._unverified[number] = False
