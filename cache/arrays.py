"""Named arrays in one HDF5 file that carries its own hash: the one door to h5py.

The first 4096 bytes, which HDF5 calls the user block and leaves to us, hold the SHA-256 of all that follows. So
a file is checked before a parser sees it, and every array is served from a memory map at its offset.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.atomic import replacing
from cache.errors import DamagedError, MissingError

BLOCK_BYTES = 4096
"""Of the user block, and the alignment of every array: a page."""
_HEADER = "WCLIP-KD arrays 1\nsha256 {sha256}\nbytes {size}\n\nAn HDF5 file: its data start at byte 4096.\n"
_HEADER_PATTERN = re.compile(rb"WCLIP-KD arrays 1\nsha256 ([0-9a-f]{64})\nbytes ([0-9]{1,15})\n")
_LIMIT_NAMES = 256
"""Arrays, and attributes, in one file: ours have a dozen; a bomb has millions."""
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py has been seen to raise on damaged files."""


@dataclass(frozen=True)
class ArrayFile:
    """What a file holds: arrays by their path in the file, memory-mapped and read-only."""

    path: Path
    attributes: dict[str, Any]
    arrays: dict[str, np.ndarray]
    sha256: str
    """Of its contents, as the file records it."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None) -> str:
    """Write arrays and scalar attributes to one file; return the SHA-256 of its contents.

    Equal arrays give equal bytes. Text arrays become fixed-length UTF-8; a name with slashes makes groups.

    Raises:
        WriteError: the disk is full, the folder cannot be written, …
    """
    image = _image(arrays, attributes or {})
    digest = hashlib.sha256(image).hexdigest()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_block(digest, len(image)))
        file.write(image)
    return digest


def read_arrays(path: Path, sha256: str | None = None, *, hashed: bool = True) -> ArrayFile:
    """Open a file and map its arrays, after checking that it is what was written.

    Args:
        path: The file.
        sha256: What its contents must hash to, where something else records it.
        hashed: Whether to hash the contents; if not, only the recorded hash and size are compared.

    Raises:
        MissingError: there is no such file.
        DamagedError: another size or hash than recorded, or a structure that we never write.
    """
    with _reading(path):
        mapped = _map(path)
        recorded = _check(path, mapped, sha256, hashed)
        with h5py.File(path, "r", locking="best-effort") as file:
            arrays = {name: _mapped(path, name, item, mapped) for name, item in _datasets(path, file)}
            return ArrayFile(path, _attributes(path, file), arrays, recorded)


def _image(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bytes:
    """Return the bytes of the HDF5 file, built in memory: a full disk then meets no half-open HDF5 file."""
    layout = {"alignment_threshold": 1, "alignment_interval": BLOCK_BYTES, "userblock_size": BLOCK_BYTES}
    with h5py.File("memory", "w", driver="core", backing_store=False, libver=("earliest", "v110"), **layout) as file:
        for name in sorted(arrays):
            file.create_dataset(name, data=_storable(arrays[name]))
        for name in sorted(attributes):
            file.attrs[name] = attributes[name]
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8") if array.size else array.astype("S1")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _block(digest: str, size: int) -> bytes:
    return _HEADER.format(sha256=digest, size=size).encode().ljust(BLOCK_BYTES, b"\0")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path}: no such file. Run the stage that writes it again.") from None
    except _HDF5_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise DamagedError(f"{path}: too many open files. Raise `ulimit -n` or use larger shards.") from error
        raise _damaged(path, f"cannot be read as one of our files ({' '.join(str(error).split())[:200]})") from error


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if (size := path.stat().st_size) <= BLOCK_BYTES:
            raise _damaged(path, f"cut short at {size} bytes")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _check(path: Path, mapped: mmap.mmap, expected: str | None, hashed: bool) -> str:
    """Return the hash that the file records, if all that was asked for agrees with it."""
    found = _HEADER_PATTERN.match(mapped)
    if found is None:
        raise _damaged(path, "not one of our array files")
    recorded, size = found[1].decode(), int(found[2])
    if mapped[:BLOCK_BYTES] != _block(recorded, size):
        raise _damaged(path, "its first 4096 bytes were changed")
    if len(mapped) != BLOCK_BYTES + size:
        raise _damaged(path, f"expected {BLOCK_BYTES + size} bytes, found {len(mapped)}")
    if expected is not None and expected != recorded:
        raise _damaged(path, f"another file than the manifest records: {recorded[:12]}, expected {expected[:12]}")
    if hashed and (contents := content_sha256(mapped)) != recorded:
        raise _damaged(path, f"hash {contents[:12]}, expected {recorded[:12]}")
    return recorded


def content_sha256(mapped: mmap.mmap) -> str:
    """Return the SHA-256 of all that follows the user block."""
    with memoryview(mapped) as view, view[BLOCK_BYTES:] as contents:
        return hashlib.sha256(contents).hexdigest()


def _datasets(path: Path, group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every data set below a group; anything that leads out of the file or in circles is refused."""
    if len(group) > _LIMIT_NAMES or depth > 3:
        raise _damaged(path, f"{len(group)} names at depth {depth}: not a structure that we write")
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _damaged(path, f"'{prefix}{name}' is a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, f"{prefix}{name}/", depth + 1)
        else:
            yield f"{prefix}{name}", item


def _mapped(path: Path, name: str, item: Any, mapped: mmap.mmap) -> np.ndarray:
    """Return a data set as an array over the mapped file, if it is plain bytes inside that file."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiubS" or item.shape is None:
        raise _damaged(path, f"'{name}' is no plain array")
    properties = item.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count() or properties.get_nfilters():
        raise _damaged(path, f"'{name}' is not stored as plain contiguous bytes")
    count = int(np.prod(item.shape, dtype=object))
    if count == 0:
        return np.zeros(item.shape, item.dtype)
    offset = item.id.get_offset()
    if offset is None or offset < BLOCK_BYTES or offset + count * item.dtype.itemsize > len(mapped):
        raise _damaged(path, f"'{name}' {item.shape} reaches beyond the end of the file")
    return np.frombuffer(mapped, item.dtype, count, offset).reshape(item.shape)


def _attributes(path: Path, file: Any) -> dict[str, Any]:
    if len(file.attrs) > _LIMIT_NAMES:
        raise _damaged(path, f"{len(file.attrs)} attributes: not a structure that we write")
    found = {}
    for name in sorted(file.attrs):
        if file.attrs.get_id(name).shape != ():
            raise _damaged(path, f"attribute '{name}' is no scalar")
        value = file.attrs[name]
        found[name] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(found[name], str | int | float):
            raise _damaged(path, f"attribute '{name}' is a {type(found[name]).__name__}")
    return found


def _damaged(path: Path, what: str) -> DamagedError:
    return DamagedError(f"{path}: damaged: {what}. Delete it and run its stage again.")
