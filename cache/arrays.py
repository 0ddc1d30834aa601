"""Named arrays in one HDF5 file with a checksum. The only module that imports h5py.

The first 4096 bytes, HDF5's user block, contain the SHA-256 of the rest. A file is therefore checked before HDF5 parses
it, and every array is read from a memory map at its offset.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import resource
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.atomic import atomic_write
from cache.errors import DamagedError, MissingError
from cache.header import BLOCK_BYTES, damaged_error, map_file, render_header, sha256_chunks, verify_header

_LIMIT_NAMES = 256
"""Limit of arrays and of attributes per file: regular files have a dozen, a malicious one may have millions."""
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""Exceptions that h5py was observed to raise on damaged files."""


@dataclass(frozen=True)
class ArrayFile:
    """Content of a file: arrays by their path in the file, memory-mapped and read-only."""

    path: Path
    attributes: dict[str, Any]
    arrays: dict[str, np.ndarray]
    sha256: str
    """SHA-256 of the content, as recorded in the file."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None) -> str:
    """Write arrays and scalar attributes to one file; return the SHA-256 of its contents.

    Equal arrays give equal bytes. Text arrays become fixed-length UTF-8; a name with slashes makes groups.

    Raises:
        WriteError: the disk is full, the folder cannot be written, …
    """
    pieces = _pieces({name: _storable(array) for name, array in arrays.items()}, attributes or {})
    size = sum(len(piece) for piece in pieces)
    with atomic_write(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(1) as beside:
        hashed = beside.submit(sha256_chunks, pieces)
        file.seek(BLOCK_BYTES)
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())  # the disk writes while the hash is computed; only one page is left to sync
        file.seek(0)
        file.write(render_header(hashed.result(), size))
    return hashed.result()


def read_arrays(path: Path, sha256: str | None = None, *, hashed: bool = True) -> ArrayFile:
    """Open a file and map its arrays, after checking its integrity.

    Args:
        path: The file.
        sha256: Expected SHA-256 of the content, if another file records it.
        hashed: Whether to hash the content; if not, only the recorded hash and size are compared.

    Raises:
        MissingError: there is no such file.
        DamagedError: another size or hash than recorded, or a structure that this module never writes.
    """
    with _reading(path):
        try:
            return _read(path, sha256, hashed)
        except OSError as error:
            if error.errno != errno.EMFILE or not _more_files():
                raise
            return _read(path, sha256, hashed)


def _read(path: Path, sha256: str | None, hashed: bool) -> ArrayFile:
    mapped = map_file(path)
    recorded = verify_header(path, mapped, sha256, hashed=hashed)
    with h5py.File(path, "r", locking="best-effort") as file:
        arrays = {name: _mapped(path, name, item, mapped) for name, item in _datasets(path, file)}
        return ArrayFile(path, _attributes(path, file), arrays, recorded)


def _more_files() -> bool:
    """Raise the soft limit on open files as far as allowed, because each map keeps its file open; return success."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft != hard


def _pieces(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> list[memoryview]:
    """Return the bytes of the HDF5 file after its user block: HDF5's metadata, with the arrays inserted without a copy.

    HDF5 creates the file structure in memory without the data. A full disk therefore cannot corrupt an open HDF5 file,
    and writing takes one pass.
    """
    frame = io.BytesIO()
    options = {"userblock_size": BLOCK_BYTES, "alignment_threshold": 1, "alignment_interval": BLOCK_BYTES}
    with h5py.File(frame, "w", libver=("earliest", "v110"), **options) as file:
        for name in sorted(attributes):
            file.attrs[name] = attributes[name]
        # The largest array last: the in-memory file ends where HDF5 last wrote, so it stays small.
        ascending = sorted(arrays, key=lambda name: (arrays[name].nbytes, name))
        offsets = {name: _reserve(file, name, arrays[name]) for name in ascending}
    header, pieces, end = frame.getvalue(), [], BLOCK_BYTES
    for name in sorted((name for name in arrays if arrays[name].size), key=offsets.__getitem__):
        pieces += [_between(header, end, offsets[name]), arrays[name].reshape(-1).view(np.uint8).data]
        end = offsets[name] + arrays[name].nbytes
    return [*pieces, memoryview(header)[end:]]


def _reserve(file: Any, name: str, array: np.ndarray) -> int:
    """Create a data set with a fixed offset and without data; return the offset."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    group = file.require_group(name.rpartition("/")[0] or "/")
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    dataset = h5py.h5d.create(
        group.id, name.rpartition("/")[2].encode(), kind, h5py.h5s.create_simple(array.shape), plan
    )
    return dataset.get_offset() or 0


def _between(header: bytes, start: int, end: int) -> memoryview:
    """Return the bytes that HDF5 wrote between two offsets, with zeros in gaps."""
    return memoryview(header[start:end].ljust(end - start, b"\0"))


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8") if array.size else array.astype("S1")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path}: no such file. Run the stage that writes it again.") from None
    except _HDF5_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise DamagedError(f"{path}: too many open files. Raise `ulimit -n` or use larger shards.") from error
        raise damaged_error(
            path, f"cannot be read as one of our files ({' '.join(str(error).split())[:200]})"
        ) from error


def _datasets(path: Path, group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every data set below a group; refuse links to other files and cycles."""
    if len(group) > _LIMIT_NAMES or depth > 3:
        raise damaged_error(path, f"{len(group)} names at depth {depth}: not a structure that we write")
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise damaged_error(path, f"'{prefix}{name}' is a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, f"{prefix}{name}/", depth + 1)
        else:
            yield f"{prefix}{name}", item


def _mapped(path: Path, name: str, item: Any, mapped: mmap.mmap) -> np.ndarray:
    """Return a data set as an array over the mapped file, if it is contiguous and inside the file."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiubS" or item.shape is None:
        raise damaged_error(path, f"'{name}' is no plain array")
    properties = item.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count() or properties.get_nfilters():
        raise damaged_error(path, f"'{name}' is not stored as plain contiguous bytes")
    count = int(np.prod(item.shape, dtype=object))
    if count == 0:
        return np.zeros(item.shape, item.dtype)
    offset = item.id.get_offset()
    if offset is None or offset < BLOCK_BYTES or offset + count * item.dtype.itemsize > len(mapped):
        raise damaged_error(path, f"'{name}' {item.shape} reaches beyond the end of the file")
    return np.frombuffer(mapped, item.dtype, count, offset).reshape(item.shape)


def _attributes(path: Path, file: Any) -> dict[str, Any]:
    if len(file.attrs) > _LIMIT_NAMES:
        raise damaged_error(path, f"{len(file.attrs)} attributes: not a structure that we write")
    attributes = {}
    for name in sorted(file.attrs):
        if file.attrs.get_id(name).shape != ():
            raise damaged_error(path, f"attribute '{name}' is no scalar")
        value = file.attrs[name]
        attributes[name] = value.item() if isinstance(value, np.generic) else value
        if not isinstance(attributes[name], str | int | float):
            raise damaged_error(path, f"attribute '{name}' is a {type(attributes[name]).__name__}")
    return attributes
