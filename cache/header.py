"""The first page of a file of arrays: what all that follows must hash to."""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterable
from pathlib import Path

from cache.errors import DamagedError

BLOCK_BYTES = 4096
"""Of the first page, which HDF5 calls the user block, and the alignment of every array."""
_HEADER = "WCLIP-KD arrays 1\nsha256 {sha256}\nbytes {size}\n\nAn HDF5 file: its data start at byte 4096.\n"
_HEADER_PATTERN = re.compile(rb"WCLIP-KD arrays 1\nsha256 ([0-9a-f]{64})\nbytes ([0-9]{1,15})\n")


def render_header(digest: str, size: int) -> bytes:
    """Return the first page of a file whose contents have this SHA-256 and this many bytes."""
    return _HEADER.format(sha256=digest, size=size).encode().ljust(BLOCK_BYTES, b"\0")


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file into memory, read-only.

    Raises:
        DamagedError: it has no room for anything after its first page.
    """
    with path.open("rb") as file:
        if (size := path.stat().st_size) <= BLOCK_BYTES:
            raise damaged_error(path, f"cut short at {size} bytes")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def verify_header(path: Path, mapped: mmap.mmap, expected: str | None, *, hashed: bool) -> str:
    """Return the hash that a file records, if its size and all that was asked for agree with it.

    Raises:
        DamagedError: something does not; the message says what was expected and found.
    """
    found = _HEADER_PATTERN.match(mapped)
    if found is None:
        raise damaged_error(path, "not one of our array files")
    recorded, size = found[1].decode(), int(found[2])
    if mapped[:BLOCK_BYTES] != render_header(recorded, size):
        raise damaged_error(path, "its first 4096 bytes were changed")
    if len(mapped) != BLOCK_BYTES + size:
        raise damaged_error(path, f"expected {BLOCK_BYTES + size} bytes, found {len(mapped)}")
    if expected is not None and expected != recorded:
        raise damaged_error(path, f"another file than the manifest records: {recorded[:12]}, expected {expected[:12]}")
    if hashed:
        with memoryview(mapped) as whole, whole[BLOCK_BYTES:] as contents:
            found_sha256 = sha256_chunks([contents])
        if found_sha256 != recorded:
            raise damaged_error(path, f"hash {found_sha256[:12]}, expected {recorded[:12]}")
    return recorded


def sha256_chunks(pieces: Iterable[memoryview]) -> str:
    """Return the SHA-256 of some pieces of bytes, one after the other."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def damaged_error(path: Path, what: str) -> DamagedError:
    """Return the error for a damaged file: delete it, and its stage makes it again."""
    return DamagedError(f"{path}: damaged: {what}. Delete it and run its stage again.")
