"""Write files so that they are absent or whole, whatever happens in between; JSON with a checksum over all it says."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from cache.errors import DamagedError, MissingError, WriteError
from cache.fingerprint import sha256_bytes

TEMP_SUFFIX = ".unfinished"
"""Suffix of a file in the making. The name is fixed, so that the next attempt replaces what a killed one left."""

_ADVICE = {
    errno.ENOSPC: "Free some space and run the same command again: what is finished stays.",
    errno.EDQUOT: "Your disk quota is used up: free some space and run the same command again.",
    errno.EFBIG: "The file system or `ulimit -f` allows no file of this size.",
    errno.EACCES: "Give yourself the right to write there, or choose another folder with --root.",
    errno.EPERM: "Give yourself the right to write there, or choose another folder with --root.",
    errno.EROFS: "The file system is mounted read-only: choose another folder with --root.",
    errno.EIO: "The disk reports an input/output error: check it before you trust what lies there.",
    errno.ENOTDIR: "A file stands where a folder is needed: move it away.",
    errno.EEXIST: "A file stands where a folder is needed: move it away.",
    errno.EISDIR: "A folder stands where a file is needed: move it away.",
    errno.ENAMETOOLONG: "Use a shorter name.",
}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place at the end, in one step.

    The data reach the disk before the name does (fsync, rename, fsync of the folder). Fails clean: on any
    error the temporary file is removed and `path` is what it was.

    Raises:
        WriteError: the disk is full, the folder cannot be written, …
    """
    _require_name(path)
    temporary = path.with_name(f".{path.name}{TEMP_SUFFIX}")
    with os_errors_as_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def os_errors_as_write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into a WriteError with what to do about them."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        reason = f"cannot be written: {os.strerror(error.errno)}"
        where = f" ({error.filename})" if error.filename else ""
        raise WriteError(f"{path}: {reason}{where}. {_ADVICE[error.errno]}") from error


@contextmanager
def atomic_directory(path: Path, *marks: str) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which takes its place when all is in it; on any error it is removed.

    A folder that is there goes only if it is empty or holds one of `marks`, files by which ours are known.

    Raises:
        WriteError: another folder or a file is in the way, the disk is full, …
    """
    _require_name(path)
    building, before = (path.with_name(f".{path.name}{suffix}") for suffix in (TEMP_SUFFIX, ".before"))
    with os_errors_as_write_errors(path):
        _refuse_foreign(path, marks)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            yield building
            shutil.rmtree(before, ignore_errors=True)
            if path.exists():
                path.rename(before)
            building.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)


def _require_name(path: Path) -> None:
    if not path.name:
        raise WriteError(f"{path}: names nothing that could be written: name a file or folder below it")


def _refuse_foreign(path: Path, marks: tuple[str, ...]) -> None:
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or any((path / m).exists() for m in marks))):
        raise WriteError(f"{path}: holds something else, which would be lost. Name another folder, or remove it first.")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole file as UTF-8, line ends as they stand."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that reads well and has one form only: sorted keys, one indent, a last newline."""
    write_bytes(path, render_json(value))


def render_json(value: Any) -> bytes:
    """Return the bytes that `write_json` writes; a file name that is no UTF-8 becomes JSON's own escapes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name: a hard link, or a copy where the file system has no links."""
    if target.exists() and target.samefile(source):
        return  # rename(2) between two names of one file does nothing and would leave the temporary name
    with atomic_write(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


SEAL = "seal"
LIMIT_BYTES = 1 << 30
"""A manifest of a million shards is 150 MB; a larger file is not one of ours."""
_REMEDY = "The file was changed after it was written: delete it and run its stage again."


def write_checksummed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a last key `seal`: the SHA-256 of the same file without it."""
    write_bytes(path, _sealed(value))


def read_checksummed_json(path: Path) -> dict[str, Any]:
    """Return what `write_checksummed_json` was given, or refuse the file if one byte of it was changed.

    Raises:
        MissingError: there is no such file.
        DamagedError: not JSON, no seal, or another seal than the contents have.
    """
    data = _read(path)
    try:
        value = json.loads(data)
        found = value.pop(SEAL) if isinstance(value, dict) else None
        if not isinstance(found, str):
            raise DamagedError(f"{path}: expected a mapping with a seal, found none. {_REMEDY}")
        if _sealed(value) != data:
            raise DamagedError(f"{path}: the seal says {found[:12]}, the contents {_seal(value)[:12]}. {_REMEDY}")
    except (ValueError, KeyError, RecursionError):
        raise DamagedError(f"{path}: not JSON with a seal. {_REMEDY}") from None
    return cast("dict[str, Any]", value)


def _sealed(value: Mapping[str, Any]) -> bytes:
    return render_json({**value, SEAL: _seal(value)})


def _seal(value: Mapping[str, Any]) -> str:
    return sha256_bytes(render_json(value))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise DamagedError(f"{path}: {path.stat().st_size} bytes, more than any manifest has. {_REMEDY}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path}: no such file. Run the stage that writes it again.") from None
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read: {error.strerror}. {_REMEDY}") from error
