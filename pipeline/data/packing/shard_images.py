"""Random access to the images of one packed shard, copied or by reference."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cache.errors import DamagedError, MissingError
from pipeline.data.packing.packed import PackedSplit, check_shard
from pipeline.data.packing.references import ReferenceShard, open_references
from pipeline.data.sources.tar_reader import BadTarError, tar_members
from pipeline.project.params import Verify


@dataclass(frozen=True)
class TarImages:
    """Locations of the images in a shard of copies."""

    path: Path
    names: tuple[str, ...]
    offset: Int64[np.ndarray, " n"]
    size: Int64[np.ndarray, " n"]

    @classmethod
    def open(cls, path: Path) -> TarImages:
        """Read the headers of a packed tar; raises DamagedError if it is not complete."""
        try:
            images = [span for span in tar_members(path.parent, path.name) if not span.extension.endswith(".json")]
        except BadTarError as error:
            raise DamagedError(f"{error} Run `pack` again.") from None
        offset, size = (np.array(values, np.int64) for values in ([s.offset for s in images], [s.size for s in images]))
        return cls(path, tuple(span.extension for span in images), offset, size)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return self.names[row].rpartition(".")[0]

    def images(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Yield the images of some samples; raises MissingError, DamagedError."""
        try:
            with self.path.open("rb", buffering=0) as file:
                for row in rows:
                    data = os.pread(file.fileno(), int(self.size[row]), int(self.offset[row]))
                    if len(data) != self.size[row]:
                        raise DamagedError(f"{self.path}: shorter than it was. Run `pack` again.")
                    yield data
        except OSError as error:
            raise MissingError(f"{self.path}: cannot be read: {error.strerror}. Run `pack` again.") from None


ShardImages = TarImages | ReferenceShard


def check_images(packed: PackedSplit, number: int, verify: Verify) -> None:
    """Check a shard before random access: its file and, for references, the source files.

    Raises:
        MissingError: the shard, or a file that it refers to, does not exist.
        DamagedError, StaleError: one of them changed since it was packed.
    """
    shard = packed.shards[number]
    check_shard(packed.folder / shard.name, shard, verify)
    if shard.by_reference:
        open_references(packed.folder / shard.name, packed.base).check_files()


def open_images(packed: PackedSplit, number: int) -> ShardImages:
    """Open a shard that was checked by `check_images`; raises as that does, and if rows are missing."""
    shard = packed.shards[number]
    path = packed.folder / shard.name
    images = open_references(path, packed.base) if shard.by_reference else TarImages.open(path)
    if len(images) != shard.rows:
        raise DamagedError(f"{path}: {len(images)} images, but its manifest says {shard.rows}. Run `pack` again.")
    return images
