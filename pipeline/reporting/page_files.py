"""Pages on disk: one HTML file each, whose last line holds the SHA-256 of all before it."""

from __future__ import annotations

import re
from pathlib import Path

from cache.atomic import write_bytes
from cache.errors import DamagedError
from cache.fingerprint import sha256_bytes

MARK = b"<!-- a page of W-CLIP KD: its last line holds the SHA-256 of all before it -->\n"
_SEAL = re.compile(rb"<!-- sha256 ([0-9a-f]{64}) -->\n\Z")


def save_page(path: Path, page: str) -> None:
    """Write a whole page between a first line that tells ours from others and a last one with its hash."""
    data = MARK + page.rstrip("\n").encode() + b"\n"
    write_bytes(path, data + f"<!-- sha256 {sha256_bytes(data)} -->\n".encode())


def is_page(path: Path) -> bool:
    """Return whether a file is a page of ours, or was one before it was damaged in one place or cut short."""
    data = path.read_bytes()
    return data.startswith(MARK) or MARK.startswith(data) or _SEAL.search(data) is not None


def check_page(path: Path, remedy: str) -> None:
    """Refuse a page of which one byte was changed.

    Raises:
        DamagedError: it was, or the page is of an earlier version, which carries no hash.
    """
    data = path.read_bytes()
    if (seal := _SEAL.search(data)) is None:
        raise DamagedError(f"{path}: its last line holds no SHA-256: cut short, or of an earlier version. {remedy}")
    found, expected = sha256_bytes(data[: seal.start()]), seal[1].decode()
    if found != expected:
        raise DamagedError(f"{path}: damaged: SHA-256 {found[:12]}, its last line says {expected[:12]}. {remedy}")
