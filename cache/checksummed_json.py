"""JSON files that know when they were changed: a seal over everything else they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cache.atomic import render_json, write_bytes
from cache.errors import DamagedError, MissingError
from cache.fingerprint import sha256_bytes

SEAL = "seal"
LIMIT_BYTES = 1 << 30
"""A manifest of a million shards is 150 MB; a larger file is not one of ours."""


def write_checksummed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a last key `seal`: the SHA-256 of the same file without it."""
    write_bytes(path, _sealed(value))


def read_checksummed_json(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` was given, or refuse the file if one byte of it was changed.

    Raises:
        MissingError: there is no such file.
        DamagedError: not JSON, no seal, or another seal than the contents have.
    """
    data = _read(path)
    try:
        value = json.loads(data)
        found = value.pop(SEAL) if isinstance(value, dict) else None
        if not isinstance(found, str):
            raise DamagedError(f"{path}: expected a mapping with a seal, found none. {_ADVICE}")
        if _sealed(value) != data:
            raise DamagedError(f"{path}: the seal says {found[:12]}, the contents {_seal(value)[:12]}. {_ADVICE}")
    except (ValueError, KeyError, RecursionError):
        raise DamagedError(f"{path}: not JSON with a seal. {_ADVICE}") from None
    return cast("dict[str, Any]", value)


_ADVICE = "The file was changed after it was written: delete it and run its stage again."


def _sealed(value: Mapping[str, Any]) -> bytes:
    return render_json({**value, SEAL: _seal(value)})


def _seal(value: Mapping[str, Any]) -> str:
    return sha256_bytes(render_json(value))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise DamagedError(f"{path}: {path.stat().st_size} bytes, more than any manifest has. {_ADVICE}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path}: no such file. Run the stage that writes it again.") from None
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read: {error.strerror}. {_ADVICE}") from error
