"""Write files atomically: after a crash, a file is complete or absent. Also JSON with a checksum of its own content."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from cache.errors import DamagedError, MissingError, WriteError
from cache.fingerprint import sha256_bytes

TEMP_SUFFIX = ".unfinished"
"""Suffix of a temporary file. The name is fixed, so that the next attempt replaces the file of a killed process."""

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
    """Yield a temporary path next to `path`; at the end, replace `path` by it in one step.

    The data are synced before the rename (fsync, rename, fsync of the folder). On any error the temporary file is
    removed and `path` is unchanged.

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
    """Convert an OSError in writing `path` to a WriteError that says what to do."""
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
    """Yield an empty folder next to `path`, and rename it to `path` when it is complete; remove it on any error.

    An existing folder is replaced only if it is empty or contains one of `marks`, names of files that identify our
    folders.

    Raises:
        WriteError: another folder or a file exists at `path`, the disk is full, …
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
    """Write a whole file as UTF-8, without translating line ends."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON in one canonical form: sorted keys, an indent of one, a final newline."""
    write_bytes(path, render_json(value))


def render_json(value: Any) -> bytes:
    """Return the bytes that `write_json` writes; file names that are not UTF-8 become JSON escapes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a finished file, or a copy if the file system has no hard links."""
    if target.exists() and target.samefile(source):
        return  # rename(2) does nothing if both names are hard links to one file; the temporary name would remain
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
_LINE = rb'\n "seal": "[0-9a-f]{64}"'
_SEAL_LINE = re.compile(rb",%b(?=\n}\n)|%b,|(?<={)%b\n(?=}\n)" % (_LINE, _LINE, _LINE))
_TOP_LEVEL_KEY = re.compile(rb'\n ("(?:[^"\\]|\\.)*"):')
"""A string in JSON has no line feed, and deeper keys are indented by two or more."""
LIMIT_BYTES = 1 << 30
"""A manifest of a million shards has 150 MB; larger files are refused."""
_REMEDY = "The file was changed after it was written: delete it and run its stage again."


def write_checksummed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a last key `seal`: the SHA-256 of the same file without it."""
    write_bytes(path, _sealed(value))


def read_checksummed_json(path: Path) -> dict[str, Any]:
    """Return the mapping of `write_checksummed_json`; refuse the file if any byte changed.

    Raises:
        MissingError: there is no such file.
        DamagedError: not JSON, no seal, or a seal that differs from the content.
    """
    data = _read(path)
    try:
        value = json.loads(data)
        seal = value.pop(SEAL) if isinstance(value, dict) else None
        if not isinstance(seal, str):
            raise DamagedError(f"{path}: expected a mapping with a seal, found none. {_REMEDY}")
        if _insert_seal(_SEAL_LINE.sub(b"", data, count=1)) != data:
            raise DamagedError(f"{path}: the seal says {seal[:12]}, the contents {_seal(value)[:12]}. {_REMEDY}")
    except (ValueError, KeyError, RecursionError):
        raise DamagedError(f"{path}: not JSON with a seal. {_REMEDY}") from None
    return cast("dict[str, Any]", value)


def _sealed(value: Mapping[str, Any]) -> bytes:
    return _insert_seal(render_json(value))


def _insert_seal(text: bytes) -> bytes:
    """Return rendered JSON with its seal, as `render_json` would give it: rendering takes far longer than hashing."""
    line = f'\n "{SEAL}": "{sha256_bytes(text)}"'.encode()
    if text == b"{}\n":
        return b"{" + line + b"\n}\n"
    later = (key.start() for key in _TOP_LEVEL_KEY.finditer(text) if json.loads(key[1]) > SEAL)
    if (place := next(later, None)) is not None:
        return text[:place] + line + b"," + text[place:]
    return text.removesuffix(b"\n}\n") + b"," + line + b"\n}\n"


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
