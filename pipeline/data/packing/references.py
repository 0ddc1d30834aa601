"""Shards packed by reference: the location and checksum of each image in its original file.

An array file (cache/arrays.py) replaces the tar. Images are read from their original files each time, and compared with
the length and CRC-32 recorded at packing before they are used.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from cache.arrays import read_arrays, write_arrays
from cache.errors import DamagedError, StaleError
from cache.fingerprint import sha256
from pipeline.data.images import Encoding, encode_for_packing
from pipeline.data.packing.reference_files import AGAIN, Span, file_states, read_spans
from pipeline.data.sources.listing import FileSpan
from pipeline.project.remote.objects import ObjectState
from pipeline.project.remote.paths import RemotePath, is_url, parse_url

SUFFIX = ".h5"
"""Extension of a shard of references; a shard of copies ends in .tar."""
_TYPES = {"key": "S", "extension": "S", "file": "<i4", "offset": "<i8", "size": "<i8", "crc32": "<u4", "encoded": "|b1"}
"""Columns by sample, and their types."""
_VERSION = "files/version"
"""Present where objects in object storage are referred to: the version of each, empty for a file on a disk."""


class ImageReference(NamedTuple):
    """One sample of a shard: the location of its image, and its description."""

    key: str
    extension: str
    folder: Path | RemotePath
    span: FileSpan
    crc32: int
    """CRC-32 of the bytes in the file."""
    encoded: bool
    """Whether a copy would have re-encoded the image to another format."""
    description: bytes


def write_references(
    path: Path, rows: Sequence[ImageReference], states: Mapping[Path | RemotePath, ObjectState]
) -> tuple[int, str]:
    """Write a shard of references; return its size and SHA-256.

    `states` are the sizes of the source files when their images were read, and the versions of objects.

    Raises:
        WriteError: the disk is full, the folder cannot be written, …
    """
    files = sorted({(row.folder, row.span.file) for row in rows}, key=lambda file: (str(file[0]), file[1]))
    numbers = {file: number for number, file in enumerate(files)}
    folders = sorted({folder for folder, _ in files}, key=lambda folder: Path(str(folder)))
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
    arrays["files/size"] = _column([states[folder / name].size for folder, name in files], "<i8")
    if any(isinstance(folder, RemotePath) for folder in folders):
        arrays[_VERSION] = _column([states[folder / name].version.encode() for folder, name in files], "S")
    arrays["folders"] = _column([os.fsencode(str(folder)) for folder in folders], "S")
    write_arrays(path, arrays, {"kind": "references"})
    return path.stat().st_size, sha256(path)


def _column(values: Sequence[Any], kind: str) -> np.ndarray:
    return np.array(values, kind) if values else np.zeros(0, "S1" if kind == "S" else kind)


@dataclass(frozen=True)
class ReferenceShard:
    """An opened shard of references with random access to its samples."""

    path: Path
    arrays: dict[str, np.ndarray]
    base: Path
    """Base folder of relative folders: the working directory of `pack`."""

    def __len__(self) -> int:
        return len(self.arrays["key"])

    @cached_property
    def files(self) -> list[Path | RemotePath]:
        """The files with the images; raises DamagedError if a name leads out of its folder."""
        folders = [self._folder(os.fsdecode(folder)) for folder in self.arrays["folders"].tolist()]
        names = [os.fsdecode(name) for name in self.arrays["files/name"].tolist()]
        if harmful := [name for name in names if ".." in PurePosixPath(name).parts or name.startswith("/")]:
            raise DamagedError(f"{self.path}: refers to {harmful[0]!r}, which leads elsewhere. Run `pack` again.")
        return [folders[at] / name for at, name in zip(self.arrays["files/folder"].tolist(), names, strict=True)]

    def _folder(self, name: str) -> Path | RemotePath:
        try:
            return parse_url(name) if is_url(name) else self.base / name
        except ValueError as error:
            raise DamagedError(f"{self.path}: refers to a folder that is not {error}. Run `pack` again.") from None

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return str(self.arrays["key"][row].decode())

    def extension(self, row: int) -> str:
        """Return the extension that the image of a sample has in a copy."""
        return str(self.arrays["extension"][row].decode())

    def description(self, row: int) -> bytes:
        """Return the JSON that a copy stores next to the image."""
        ends = self.arrays["description_end"]
        start = int(ends[row - 1]) if row else 0
        return self.arrays["description"][start : int(ends[row])].tobytes()

    def check_files(self) -> None:
        """Check every source file before any of them is read.

        Raises:
            MissingError: a file does not exist.
            StaleError: a file has another size than at packing.
        """
        sizes = self.arrays["files/size"].tolist()
        versions = (
            [b.decode() for b in self.arrays[_VERSION].tolist()] if _VERSION in self.arrays else [""] * len(sizes)
        )
        for path, size, version, state in zip(self.files, sizes, versions, file_states(self.files), strict=True):
            if state.size != size:
                raise StaleError(f"{path}: {state.size} bytes, and {size} when it was packed by reference. {AGAIN}")
            if version not in ("", state.version):
                raise StaleError(
                    f"{path}: version {state.version!r}, and {version!r} when it was packed by reference. {AGAIN}"
                )

    def images(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Yield the images of samples as a copy would store them; consecutive images of one file share an open file.

        Raises:
            MissingError: a file does not exist or cannot be read.
            StaleError: an image's bytes changed since packing.
        """
        columns = zip(*(self.arrays[name][list(rows)].tolist() for name in ("file", "offset", "size")), strict=True)
        spans = [Span(*numbers) for numbers in columns]
        for row, span, data in zip(rows, spans, read_spans(self.files, spans), strict=True):
            yield self._checked(row, span, data)

    def _checked(self, row: int, span: Span, data: bytes) -> bytes:
        if len(data) != span.size or zlib.crc32(data) != int(self.arrays["crc32"][row]):
            raise StaleError(
                f"{self.files[span.file]}: the image '{self.key(row)}' at byte {span.offset} is not the one that was "
                f"packed by reference. {AGAIN}"
            )
        # The same conversion as in `pack`; the decoded pixels are equal with every version of Pillow's encoder.
        return encode_for_packing(data, Encoding()).data if self.arrays["encoded"][row] else data


def open_references(path: Path, base: Path) -> ReferenceShard:
    """Open a shard of references whose file was already checked.

    Raises:
        DamagedError: it was not written by `pack`.
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
    """Return whether every index in the arrays is within bounds."""
    files, folders, ends = len(arrays["files/name"]), len(arrays["folders"]), arrays["description_end"]
    pairs = ((arrays["file"], files), (arrays["files/folder"], folders))
    numbered = all(((values >= 0) & (values < count)).all() for values, count in pairs)
    ascending = bool((np.diff(ends, prepend=0) >= 0).all()) and (
        not len(ends) or ends[-1] == len(arrays["description"])
    )
    same = len(arrays["files/folder"]) == len(arrays["files/size"]) == len(arrays.get(_VERSION, arrays["files/size"]))
    same = same and len(arrays["files/size"]) == files
    return bool(numbered and ascending and same and (arrays["offset"] >= 0).all() and (arrays["size"] >= 0).all())
