"""Fingerprints of the inputs that decide a result, and hashes of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.errors import MissingError

DIGITS = 12
"""Hex digits of a fingerprint: 48 bits. Among a million, a collision has a probability of about 1 in 500."""


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return twelve hex digits that change if any fact changes.

    SHA-256 of the facts as canonical JSON: sorted keys, no spaces, UTF-8, no NaN.
    """
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_bytes(text.encode("utf-8", "backslashreplace"))[:DIGITS]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits.

    Raises:
        MissingError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path}: no such file. Run the stage that writes it again.") from None


def sha256_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
