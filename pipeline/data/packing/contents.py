"""What a packed shard is, and the digests of its samples that later results depend on."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
