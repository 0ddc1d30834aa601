"""The header page of a file of arrays, with the hash of the rest."""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterable
from pathlib import Path

from cache.errors import DamagedError

BLOCK_BYTES = 4096
"""Size of the header, HDF5's user block, and alignment of every array."""
_HEADER = "WCLIP-KD arrays 1\nsha256 {sha256}\nbytes {size}\n\nAn HDF5 file: its data start at byte 4096.\n"
_HEADER_PATTERN = re.compile(rb"WCLIP-KD arrays 1\nsha256 ([0-9a-f]{64})\nbytes ([0-9]{1,15})\n")


def render_header(digest: str, size: int) -> bytes:
    """Return the header of a file whose content has this SHA-256 and size."""
    return _HEADER.format(sha256=digest, size=size).encode().ljust(BLOCK_BYTES, b"\0")


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file into memory, read-only.

    Raises:
        DamagedError: it is not longer than its header.
    """
    with path.open("rb") as file:
        if (size := path.stat().st_size) <= BLOCK_BYTES:
            raise damaged_error(path, f"cut short at {size} bytes")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def verify_header(path: Path, mapped: mmap.mmap, expected: str | None, *, hashed: bool) -> str:
    """Return the hash recorded in a file, after comparing it and the size with the content and the expectation.

    Raises:
        DamagedError: they differ; the message has the expected and the actual value.
    """
    match = _HEADER_PATTERN.match(mapped)
    if match is None:
        raise damaged_error(path, "not one of our array files")
    recorded, size = match[1].decode(), int(match[2])
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
    """Return the SHA-256 of the concatenation of some chunks."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def damaged_error(path: Path, what: str) -> DamagedError:
    """Return the error for a damaged file; it advises to delete the file and run its stage again."""
    return DamagedError(f"{path}: damaged: {what}. Delete it and run its stage again.")
