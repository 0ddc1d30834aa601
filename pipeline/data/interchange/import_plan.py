"""Parts of a store of imported embeddings: fingerprints, shards, and missing provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cache.errors import CacheError
from cache.fingerprint import fingerprint, sha256
from cache.manifest import ShardRecord, shard_name, view_name
from cache.shard import ImageShard, PromptShard, Shard, TextShard, shard_record, write_shard
from pipeline.data.interchange.alignment import ShardAlignment
from pipeline.data.interchange.external import ExternalEmbeddings
from pipeline.data.packing.packed import PackedSplit

FORMAT = 1
UNKNOWN = "unknown"
PROBED_ROWS = 10_000
HALF_ROUNDING = 2e-3
"""Largest deviation from 1 of the norm of a unit vector in float16: 2⁻¹¹ per coordinate, plus a margin."""


@dataclass(frozen=True)
class ImportedPart:
    """One part: the facts that decide its bytes, and the function that makes shard i."""

    name: str
    facts: dict[str, Any]
    kind: type[Any]
    places: Sequence[ShardAlignment]
    foreign: ExternalEmbeddings

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of its workspace in the store."""
        return fingerprint(self.facts)

    def shard(self, number: int) -> Shard:
        """Return shard `number`; raises UsageError if one of its rows is not a valid embedding."""
        place = self.places[number]
        if self.kind is ImageShard:
            rows = self.foreign.image.take(self.foreign.image_rows[place.images])
            return ImageShard(place.keys, rows, place.boxes, np.zeros(len(rows), bool), place.labels)
        if self.kind is PromptShard and self.foreign.prompts:
            return self.foreign.prompts
        return _texts(self.foreign, place)

    def write_if_missing(self, folder: Path, number: int) -> ShardRecord:
        """Return the manifest entry of a shard; write the shard unless it exists and is intact."""
        path = folder / shard_name(number)
        if path.exists():
            try:
                return shard_record(path, self.kind, self.fingerprint)
            except CacheError:
                path.unlink()
        return write_shard(path, self.shard(number), self.fingerprint)


def plan_import(
    foreign: ExternalEmbeddings, places: Sequence[ShardAlignment], packed: PackedSplit | None, model: str | None
) -> list[ImportedPart]:
    """Return the parts of a store: the images and, if present, the texts and the prompts.

    Files are identified by their bytes, and the teacher by its name, because its weights are not known.
    """
    teacher = {
        "model": model or foreign.model_name or UNKNOWN,
        "imported": True,
        "weights_sha256": UNKNOWN,
        "dim": foreign.image.dim,
        "unit_length": _unit_length(foreign),
    }
    digest = new_sha256("\n".join(sha256(path) for path in foreign.files).encode()).hexdigest()
    facts = {"format": FORMAT, "teacher": teacher, "imported": digest}
    images = {**facts, "packed": packed.digest if packed else None, "view": {"kind": "center" if packed else UNKNOWN}}
    works = [ImportedPart(view_name(0), images, ImageShard, places, foreign)]
    if foreign.text:
        works.append(ImportedPart("text", {**images, "part": "text"}, TextShard, places, foreign))
    if foreign.prompts:
        works.append(ImportedPart("prompts", {**facts, "part": "prompts"}, PromptShard, places[:1], foreign))
    return works


def _texts(foreign: ExternalEmbeddings, place: ShardAlignment) -> TextShard:
    """Return the texts of some images, each with the hash of its words."""
    starts = foreign.offsets
    counts = np.diff(starts)[place.images]
    rows = np.concatenate([foreign.text_rows[starts[i] : starts[i + 1]] for i in place.images])
    embedding = foreign.text.take(rows) if foreign.text else np.zeros((0, foreign.image.dim), np.float32)
    digests = np.array([_digest(foreign, row, vector) for row, vector in zip(rows, embedding, strict=True)], "S64")
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return TextShard(place.keys, embedding, offsets, np.zeros((len(rows), 0), np.int32), digests)


def _digest(foreign: ExternalEmbeddings, row: int, embedding: Float[np.ndarray, " d"]) -> str:
    """Return the hash of a text's words or, if they are unknown, of its embedding.

    An empty caption counts as unknown: otherwise all empty captions would be one caption, and correct for every image.
    """
    if foreign.captions and foreign.captions[row].strip():
        return new_sha256(foreign.captions[row].encode()).hexdigest()
    return foreign.caption_sha[row] if foreign.caption_sha else new_sha256(embedding.tobytes()).hexdigest()


def _unit_length(foreign: ExternalEmbeddings) -> bool:
    lengths = np.linalg.norm(foreign.image.take(foreign.image_rows[:PROBED_ROWS]), axis=1)
    return bool((np.abs(lengths - 1) < HALF_ROUNDING).all())


def missing_provenance(foreign: ExternalEmbeddings, teacher: dict[str, Any], packed: PackedSplit | None) -> list[str]:
    """Return, one line each, the metadata that a store of `embed` has and this one lacks."""
    stacks = [stack for stack in (foreign.image, foreign.text) if stack]
    widths = {stack.dtype.itemsize for stack in stacks}
    stated = (
        "assumed to be the center" if packed else "and there are no images: `distill` and `evaluate` need them packed"
    )
    lines = [
        f"the teacher's weights ('{teacher['model']}' is what it is called here), so nobody can ask it again",
        f"which part of each image was seen ({stated}); one view only",
    ]
    if teacher["unit_length"]:
        lines.append("lengths: every embedding has length 1, so use `pre_norm: l2`; likelihoods would mean nothing")
    if 2 in widths:
        lines.append("what float16 rounded away: the flattest axes hold its noise, so keep a floor when whitening")
    if 8 in widths:
        lines.append("what lies beyond float32: float64 was rounded to it")
    wordless = [not caption.strip() for caption in foreign.captions or ()]
    if foreign.text and (foreign.captions is None or any(wordless)):
        count = f"{sum(wordless)} texts" if wordless else "the texts"
        equal = "a hash tells which are equal" if foreign.caption_sha else "those with equal embeddings count as equal"
        lines.append(f"the words of {count}: {equal}")
    return lines
