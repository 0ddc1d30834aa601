"""What a packed shard is: a tar that depends on nothing but its samples, and digests that later results depend on."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from pipeline.data.packing.references import SUFFIX

if TYPE_CHECKING:
    from pipeline.data.packing.packed import Sample

to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""The one form of a description, and of what is hashed."""


@dataclass(frozen=True)
class PackedShard:
    """A finished shard: its file, and what of it decides which later result."""

    name: str
    rows: int
    size: int
    sha256: str
    images_sha256: str
    """Of keys, labels, and each image's extension, length and CRC-32: what image embeddings depend on."""
    captions_sha256: str
    """Of keys, captions and foils: what text embeddings depend on."""

    @property
    def by_reference(self) -> bool:
        """Return whether its images stay in files of their own."""
        return self.name.endswith(SUFFIX)


class ContentDigest:
    """What embeddings depend on, of samples in their order; the same whether they are copied or referred to."""

    def __init__(self) -> None:
        self.rows, self._images, self._captions = 0, hashlib.sha256(), hashlib.sha256()

    def add(self, sample: Sample) -> int:
        """Take in one sample; return the CRC-32 of its image."""
        crc32 = zlib.crc32(sample.image)
        self.rows += 1
        self._images.update(f"{sample.key} {sample.label} {sample.extension} {len(sample.image)} ".encode())
        self._images.update(b"%08x\n" % crc32)
        self._captions.update(to_json([sample.key, sample.captions, *sample.choices]).encode())
        return crc32

    def shard(self, name: str, size: int, sha256: str) -> PackedShard:
        """Return the samples so far as a shard whose file has this size and hash."""
        return PackedShard(name, self.rows, size, sha256, self._images.hexdigest(), self._captions.hexdigest())


BLOCK = 512
BUFFER_BYTES = 1 << 18
_ZEROS = bytes(BLOCK)
_HEADER_END = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\x00" + bytes(167)
_HEADER_SUM = sum(_HEADER_END) + sum(b"        ")  # of a header's constant part; its sum itself counts as blanks


class TarWriter:
    """A tar (ustar) being written, hashed on its way to the disk: no time, no owner, one mode."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Write one file."""
        for part in (_header(name, len(data)), data, _ZEROS[: -len(data) % BLOCK]):
            self._write(part)

    def close(self) -> None:
        """Write the end mark: two empty blocks."""
        self._write(bytes(2 * BLOCK))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.sha256.update(data)
        self.size += len(data)


def _header(name: str, size: int) -> bytes:
    """Return a ustar header: mode 0644, owner 0, time 0."""
    if len(name) > 100:
        raise ValueError(f"{name}: longer than a tar header's name")
    head = name.encode("ascii").ljust(100, b"\0") + b"0000644\x000000000\x000000000\x00%011o\x0000000000000\x00" % size
    return head + b"%06o\0 " % (sum(head) + _HEADER_SUM) + _HEADER_END
