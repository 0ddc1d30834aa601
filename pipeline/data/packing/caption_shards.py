"""Additional captions of a packed split: a JSON lines file next to each shard, whose bytes do not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cache.atomic import write_bytes
from cache.errors import DamagedError, MissingError, StaleError
from cache.fingerprint import sha256, sha256_bytes
from cache.manifest import CAPTIONS, Manifest
from pipeline.data.packing.contents import to_json

FOLDER = "captions"
"""Subfolder of a packed split with one folder per file of additional captions."""
KeyedCaptions = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""The keys of samples, and the captions of each."""
COUNTS = ("images", "missing", "captions", "unknown", "empty", "duplicates")


@dataclass(frozen=True)
class CaptionShard:
    """The captions of one packed shard's samples, in its order."""

    rows: int
    sha256: str
    captions_sha256: str
    """Hash of keys and captions, on which their embeddings depend, as for a packed shard's own captions."""


@dataclass(frozen=True)
class PackedCaptions:
    """A file of additional captions, stored next to the shards of a split."""

    shards: tuple[CaptionShard, ...]
    counts: dict[str, int]
    """Numbers of images with and without captions, of captions, and of what was omitted."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the hash of each shard's inputs."""
        return tuple(shard.captions_sha256 for shard in self.shards)

    @property
    def digest(self) -> str:
        """Return the hash of all captions, on which all their embeddings depend."""
        return sha256_bytes("\n".join(self.inputs).encode())

    def facts(self) -> dict[str, Any]:
        """Return the entry in the split's manifest."""
        return {"counts": self.counts, "shards": [asdict(shard) for shard in self.shards]}


def parse_captions_of_split(value: Mapping[str, Any]) -> dict[str, PackedCaptions]:
    """Parse the manifest's entries of additional captions; wrong shapes raise KeyError, TypeError or ValueError."""
    return {
        name: PackedCaptions(
            tuple(CaptionShard(**shard) for shard in about["shards"]),
            {count: int(about["counts"][count]) for count in COUNTS},
        )
        for name, about in value.items()
    }


def caption_shard_name(name: str, number: int) -> str:
    """Return the path of a shard's captions below the packed split."""
    return f"{FOLDER}/{name}/shard-{number:05d}.jsonl"


def write_caption_shard(path: Path, keys: Sequence[str], captions: Sequence[Sequence[str]]) -> CaptionShard:
    """Write the captions of one shard, one line per sample: its key and a list, which may be empty."""
    lines = [to_json([key, own]) for key, own in zip(keys, captions, strict=True)]
    data = "".join(f"{line}\n" for line in lines).encode()
    write_bytes(path, data)
    return CaptionShard(len(lines), sha256_bytes(data), hashlib.sha256("".join(lines).encode()).hexdigest())


def read_caption_shard(path: Path, shard: CaptionShard, verify: Literal["hash", "size"] = "hash") -> KeyedCaptions:
    """Return the keys of a shard's samples, and the captions of each.

    Raises:
        MissingError: there is no such file.
        DamagedError: the file was changed.
    """
    if not path.exists():
        raise MissingError(f"{path}: no such captions. Run `pack` again.")
    if verify == "hash" and (digest := sha256(path)) != shard.sha256:
        raise DamagedError(
            f"{path}: SHA-256 {digest[:12]}…, but its manifest says {shard.sha256[:12]}…. Run `pack` again."
        )
    try:
        rows = list(_rows(path))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{path}: not captions that `pack` wrote ({error}). Run `pack` again.") from None
    if len(rows) != shard.rows:
        raise DamagedError(f"{path}: {len(rows)} samples, but its manifest says {shard.rows}. Run `pack` again.")
    return tuple(key for key, _ in rows), tuple(captions for _, captions in rows)


def require_same_captions(
    manifest: Manifest, packed_folder: Path, caption_files: Mapping[str, PackedCaptions], name: str
) -> None:
    """Refuse embeddings of other captions than the packed ones.

    Raises:
        StaleError: the captions were packed again since they were embedded, or are missing on one side.
    """
    part, further = manifest.parts.get(f"{CAPTIONS}{name}"), caption_files.get(name)
    embedded, expected = (part.facts.get("captions") if part else None), (further.digest if further else None)
    if embedded != expected:
        sides = [digest[:12] if digest else "missing" for digest in (expected, embedded)]
        raise StaleError(
            f"{packed_folder}: captions '{name}' are {sides[0]} there and {sides[1]} among the embeddings. "
            "Run `dvc repro embed`."
        )


def _rows(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            key, captions = json.loads(line)
            yield key, tuple(captions)
