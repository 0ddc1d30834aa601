"""Shards packed by reference: where each image lies in files that stay where they are, and how to know it again.

An array file (cache/arrays.py) stands in the place of a tar. The images' bytes are read from their own files each time,
and each is compared with the length and the CRC-32 that it had when it was packed before anything is made of it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cache.arrays import read_arrays, write_arrays
from cache.errors import DamagedError, MissingError, StaleError
from cache.fingerprint import sha256
from pipeline.data.images import Encoding, encode_for_packing
from pipeline.data.sources.listing import FileSpan

SUFFIX = ".h5"
"""Of a shard of references; a shard of copies ends in .tar."""
_TYPES = {"key": "S", "extension": "S", "file": "<i4", "offset": "<i8", "size": "<i8", "crc32": "<u4", "encoded": "|b1"}
"""Columns by sample, and their types."""


@dataclass(frozen=True)
class ImageReference:
    """One sample of a shard: where its image lies, and what is said about it."""

    key: str
    extension: str
    folder: Path
    span: FileSpan
    crc32: int
    """Of the bytes in the file."""
    encoded: bool
    """Whether a copy would have held the image in another format than the file does."""
    description: bytes


def write_references(path: Path, rows: Sequence[ImageReference], sizes: dict[Path, int]) -> tuple[int, str]:
    """Write a shard of references; return its size and SHA-256.

    `sizes` are the bytes of each file that is referred to, as it was when its images were read.

    Raises:
        WriteError: the disk is full, the folder cannot be written, …
    """
    files = sorted({(row.folder, row.span.file) for row in rows}, key=lambda file: (os.fspath(file[0]), file[1]))
    numbers = {file: number for number, file in enumerate(files)}
    folders = sorted({folder for folder, _ in files})
    columns: dict[str, list[Any]] = {
        "key": [row.key.encode() for row in rows],
        "extension": [row.extension.encode() for row in rows],
        "file": [numbers[row.folder, row.span.file] for row in rows],
        "offset": [row.span.offset for row in rows],
        "size": [row.span.size for row in rows],
        "crc32": [row.crc32 for row in rows],
        "encoded": [row.encoded for row in rows],
    }
    arrays = {name: _column(values, _TYPES[name]) for name, values in columns.items()}
    arrays["description"] = np.frombuffer(b"".join(row.description for row in rows), np.uint8)
    arrays["description_end"] = np.cumsum([len(row.description) for row in rows], dtype=np.int64)
    arrays["files/name"] = _column([os.fsencode(name) for _, name in files], "S")
    arrays["files/folder"] = _column([folders.index(folder) for folder, _ in files], "<i4")
    arrays["files/size"] = _column([sizes[folder / name] for folder, name in files], "<i8")
    arrays["folders"] = _column([os.fsencode(folder) for folder in folders], "S")
    write_arrays(path, arrays, {"kind": "references"})
    return path.stat().st_size, sha256(path)


def _column(values: Sequence[Any], kind: str) -> np.ndarray:
    return np.array(values, kind) if values else np.zeros(0, "S1" if kind == "S" else kind)


@dataclass(frozen=True)
class ReferenceShard:
    """A shard of references, opened: any sample of it can be read."""

    path: Path
    arrays: dict[str, np.ndarray]
    base: Path
    """What relative folders are below: the working directory of `pack`."""

    def __len__(self) -> int:
        return len(self.arrays["key"])

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold the images; raises DamagedError at a name that leads out of its folder."""
        folders = [self.base / os.fsdecode(folder) for folder in self.arrays["folders"].tolist()]
        names = [os.fsdecode(name) for name in self.arrays["files/name"].tolist()]
        if harmful := [name for name in names if ".." in PurePosixPath(name).parts or name.startswith("/")]:
            raise DamagedError(f"{self.path}: refers to {harmful[0]!r}, which leads elsewhere. Run `pack` again.")
        return [folders[at] / name for at, name in zip(self.arrays["files/folder"].tolist(), names, strict=True)]

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return str(self.arrays["key"][row].decode())

    def extension(self, row: int) -> str:
        """Return the extension that the image of a sample has in a copy."""
        return str(self.arrays["extension"][row].decode())

    def description(self, row: int) -> bytes:
        """Return the JSON that a copy has beside the image."""
        ends = self.arrays["description_end"]
        start = int(ends[row - 1]) if row else 0
        return self.arrays["description"][start : int(ends[row])].tobytes()

    def check_files(self) -> None:
        """Look at every file that is referred to, before anything of one is read.

        Raises:
            MissingError: one is gone.
            StaleError: one has another size than when it was packed.
        """
        for path, size in zip(self.files, self.arrays["files/size"].tolist(), strict=True):
            try:
                found = path.stat().st_size
            except OSError as error:
                raise _missing(path, error) from None
            if found != size:
                raise StaleError(f"{path}: {found} bytes, and {size} when it was packed by reference. {_AGAIN}")

    def images(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Yield the images of some samples as a copy holds them, a file kept open while they lie in it.

        Raises:
            MissingError: a file is gone, or cannot be read.
            StaleError: the bytes of an image are others than when it was packed.
        """
        opened, file = -1, -1
        with ExitStack() as stack:
            for row in rows:
                if (number := int(self.arrays["file"][row])) != opened:
                    stack.close()
                    opened, file = number, _open(self.files[number])
                    stack.callback(os.close, file)
                yield self._image(file, row)

    def _image(self, file: int, row: int) -> bytes:
        offset, size = int(self.arrays["offset"][row]), int(self.arrays["size"][row])
        path = self.files[int(self.arrays["file"][row])]
        try:
            data = os.pread(file, size, offset)
        except OSError as error:
            raise _missing(path, error) from None
        if len(data) != size or zlib.crc32(data) != int(self.arrays["crc32"][row]):
            raise StaleError(
                f"{path}: the image '{self.key(row)}' at byte {offset} is not the one that was packed by reference. "
                f"{_AGAIN}"
            )
        # Once more what `pack` did; Pillow gives the same pixels back, whatever it writes them as.
        return encode_for_packing(data, Encoding()).data if self.arrays["encoded"][row] else data


_AGAIN = "Put the file back, or run `index` and `pack` again."


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise _missing(path, error) from None


def _missing(path: Path, error: OSError) -> MissingError:
    return MissingError(f"{path}: packed by reference, and cannot be read any more: {error.strerror}. {_AGAIN}")


def open_references(path: Path, base: Path) -> ReferenceShard:
    """Open a shard of references whose file has been checked already.

    Raises:
        DamagedError: it is not one that `pack` writes.
    """
    opened = read_arrays(path, hashed=False)
    arrays = opened.arrays
    rows = len(arrays.get("key", ()))
    whole = (
        opened.attributes.get("kind") == "references"
        and {"folders", "files/name", "files/folder", "files/size", "description", "description_end"} <= arrays.keys()
        and all(name in arrays and arrays[name].shape == (rows,) for name in (*_TYPES, "description_end"))
        and _inside(arrays)
    )
    if not whole:
        raise DamagedError(f"{path}: not a shard of references that `pack` wrote. Run `pack` again.")
    return ReferenceShard(path, arrays, base)


def _inside(arrays: dict[str, np.ndarray]) -> bool:
    """Return whether every number in the arrays points to something."""
    files, folders, ends = len(arrays["files/name"]), len(arrays["folders"]), arrays["description_end"]
    pairs = ((arrays["file"], files), (arrays["files/folder"], folders))
    numbered = all(((values >= 0) & (values < count)).all() for values, count in pairs)
    ascending = bool((np.diff(ends, prepend=0) >= 0).all()) and (
        not len(ends) or ends[-1] == len(arrays["description"])
    )
    same = len(arrays["files/folder"]) == len(arrays["files/size"]) == files
    return bool(numbered and ascending and same and (arrays["offset"] >= 0).all() and (arrays["size"] >= 0).all())
