"""HTML pages on disk, whose last line has the SHA-256 of all bytes before it."""

from __future__ import annotations

import re
from pathlib import Path

from cache.atomic import write_bytes
from cache.errors import DamagedError
from cache.fingerprint import sha256_bytes

MARK = b"<!-- a page of W-CLIP KD: its last line holds the SHA-256 of all before it -->\n"
_SEAL = re.compile(rb"<!-- sha256 ([0-9a-f]{64}) -->\n\Z")


def save_page(path: Path, page: str) -> None:
    """Write a page with a first line that identifies it and a last line with its hash."""
    data = MARK + page.rstrip("\n").encode() + b"\n"
    write_bytes(path, data + f"<!-- sha256 {sha256_bytes(data)} -->\n".encode())


def is_page(path: Path) -> bool:
    """Return whether a file is a page of this project, possibly damaged in one place or truncated."""
    data = path.read_bytes()
    return data.startswith(MARK) or MARK.startswith(data) or _SEAL.search(data) is not None


def check_page(path: Path, remedy: str) -> None:
    """Refuse a page that was changed.

    Raises:
        DamagedError: it was changed, or is of an earlier version without a hash.
    """
    data = path.read_bytes()
    if (seal := _SEAL.search(data)) is None:
        raise DamagedError(f"{path}: its last line holds no SHA-256: cut short, or of an earlier version. {remedy}")
    digest, expected = sha256_bytes(data[: seal.start()]), seal[1].decode()
    if digest != expected:
        raise DamagedError(f"{path}: damaged: SHA-256 {digest[:12]}, its last line says {expected[:12]}. {remedy}")
