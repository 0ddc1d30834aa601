"""Parts of a split's embeddings, and which of their shards exist.

Each part (a view, the text, the prompts) has its own workspace in the store, named by the facts that decide it: more
views, captions or classes add parts and leave the others unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import CacheError, DamagedError, StaleError
from cache.fingerprint import fingerprint, sha256_bytes
from cache.manifest import (
    CAPTIONS,
    FOIL_WORDS,
    FOILS,
    PATCHES,
    PROMPTS,
    TEXT,
    WORDS,
    ManifestPart,
    ShardRecord,
    is_further_captions,
    shard_name,
    view_name,
)
from cache.shard import ImageShard, PromptShard, Shard, TextShard, read_shard, shard_record, write_shard
from cache.token_shard import PatchShard, WordShard
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import ViewParams
from pipeline.project.code_versions import code_version
from pipeline.project.remote.store import RemoteStore
from pipeline.teacher.image_model import NO_TOKENIZER

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "torch")
"""Whose versions a manifest has, and all workers of a cluster share."""
_KINDS = {
    TEXT: TextShard,
    PROMPTS: PromptShard,
    FOILS: TextShard,
    PATCHES: PatchShard,
    WORDS: WordShard,
    FOIL_WORDS: WordShard,
}


@dataclass(frozen=True)
class PartBuild:
    """One part being built: shard i belongs to packed shard i; prompts are a single shard."""

    name: str
    fingerprint_inputs: dict[str, Any]
    folder: Path
    shard_inputs: tuple[str, ...]
    """Hash of each shard's inputs: its packed images or captions."""
    remote: RemoteStore | None = None
    """Where finished shards are uploaded for other machines, if anywhere."""

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return len(self.shard_inputs)

    @property
    def recipe_fingerprint(self) -> str:
        """Return the fingerprint of the procedure, without the inputs."""
        return fingerprint(
            {name: fact for name, fact in self.fingerprint_inputs.items() if name not in ("images", "captions")}
        )

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint that names the workspace."""
        return fingerprint(self.fingerprint_inputs)

    def finished_shards(self) -> dict[int, ShardRecord]:
        """Return the existing intact shards; damaged ones, and those of an older format, are made again."""
        records = ((number, self.finished_shard(number)) for number in range(self.shards))
        return {number: record for number, record in records if record is not None}

    def finished_shard(self, number: int) -> ShardRecord | None:
        """Return one shard if it exists and is intact; a damaged one is removed."""
        path = self.folder / shard_name(number)
        try:
            return shard_record(path, self.kind, self.fingerprint) if path.exists() else None
        except (DamagedError, StaleError) as error:
            print(f"made again: {error}", file=sys.stderr)
            path.unlink()
            return None

    def lacking_shards(self) -> list[int]:
        """Return the numbers of the shards that do not exist on this machine."""
        return [number for number in range(self.shards) if not (self.folder / shard_name(number)).exists()]

    def write(self, number: int, shard: Shard) -> None:
        """Write one finished shard, and upload it for other machines."""
        path = self.folder / shard_name(number)
        write_shard(path, shard, self.fingerprint)
        if self.remote is not None:
            self.remote.put(self.folder.name, path)

    def part(self, records: Mapping[int, ShardRecord]) -> ManifestPart:
        """Return the finished part as stored in the manifest."""
        return ManifestPart(
            self.fingerprint, self.fingerprint_inputs, tuple(records[number] for number in range(self.shards))
        )

    @property
    def kind(self) -> type[Any]:
        """Return the class of its shards."""
        return TextShard if is_further_captions(self.name) else _KINDS.get(self.name, ImageShard)


def plan_parts(
    packed: PackedSplit,
    teacher: Mapping[str, Any],
    views: ViewParams,
    store: WorkStore,
    tokens: Mapping[str, Any] | None = None,
    *,
    remote: RemoteStore | None = None,
) -> list[PartBuild]:
    """Return all parts of a split: its views, and prompts for a zero-shot set or text if there are captions.

    A choice set also has foils. A teacher without text tower has only views. Each file of additional captions, and the
    tokens if `tokens` is given, are separate parts; all others stay unchanged.
    """
    images = tuple(shard.images_sha256 for shard in packed.shards)
    captions = tuple(shard.captions_sha256 for shard in packed.shards)
    parts: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        view_name(index): ({"images": _digest(images), "view": views.facts(index)}, images)
        for index in range(views.crops + 1)
    }
    if not reads_text(teacher):
        pass
    elif packed.classes:
        parts[PROMPTS] = ({"classes": list(packed.classes), "templates": list(packed.templates)}, (PROMPTS,))
    elif _captioned(packed):
        parts[TEXT] = ({"captions": _digest(captions)}, captions)
        if packed.counts.get("choices"):
            parts[FOILS] = ({"captions": _digest(captions), "part": FOILS}, captions)
        for name, further in packed.caption_files.items():
            part = f"{CAPTIONS}{name}"
            parts[part] = ({"captions": further.digest, "part": part}, further.inputs)
    for pooled, dense in ((view_name(0), PATCHES), (TEXT, WORDS), (FOILS, FOIL_WORDS)) if tokens else ():
        if pooled in parts:
            facts, inputs = parts[pooled]
            parts[dense] = ({**facts, "tokens": dict(tokens or {})}, inputs)
    works = []
    for name, (decides, inputs) in parts.items():
        facts = {"format": code_version("embed"), "teacher": dict(teacher), **decides}
        works.append(PartBuild(name, facts, store.workspace("embed", fingerprint(facts)).resolve(), inputs, remote))
    return works


def reads_text(teacher: Mapping[str, Any]) -> bool:
    """Return whether a teacher with these facts has a text tower."""
    return bool(teacher.get("tokenizer") != NO_TOKENIZER)


def _digest(digests: tuple[str, ...]) -> str:
    return sha256_bytes("\n".join(digests).encode())


def _captioned(packed: PackedSplit) -> bool:
    if "captions" in packed.counts:  # `pack` has counted them
        return packed.counts["captions"] > 0
    return any(sample.captions for number in range(len(packed.shards)) for sample in packed.read(number, "size"))


BUILD_INFO = "work.json"
"""File in a workspace with the procedure, the inputs of each shard, and the batch size."""


def resolve_batch_size(
    works: Sequence[PartBuild], store: WorkStore, requested: int | None, find: Callable[[], int]
) -> int:
    """Record the inputs of each part, and return the batch size with which the first was begun.

    The last bits of an embedding depend on it, so an existing part keeps its batch size. A new part has the requested
    one; without a request, that of an earlier packing, whose shards can be reused, or a measured one.
    """
    batch = _recorded_batch(works[0]) or requested or _previous_batch(works[0], store) or find()
    for work in works:
        if not (work.folder / BUILD_INFO).exists():
            write_checksummed_json(
                work.folder / BUILD_INFO,
                {"recipe": work.recipe_fingerprint, "inputs": list(work.shard_inputs), "batch": batch},
            )
    return batch


def reuse_shards(work: PartBuild, batch: int, store: WorkStore) -> None:
    """Copy missing shards of a part from other workspaces with the same procedure and the same inputs."""
    lacking = work.lacking_shards()
    donors = _reusable_shards(work, batch, store) if lacking else {}
    for number in lacking:
        if path := donors.get(work.shard_inputs[number]):
            with suppress(CacheError):  # a damaged shard is not reused; the teacher embeds it again
                work.write(number, read_shard(path, work.kind, path.parent.name.rpartition("-")[2]))


def _recorded_batch(work: PartBuild) -> int | None:
    note = work.folder / BUILD_INFO
    return int(read_checksummed_json(note)["batch"]) if note.exists() else None


def _previous_batch(work: PartBuild, store: WorkStore) -> int | None:
    """Return the batch size of other workspaces of the same procedure; the smallest if they differ."""
    return min((note["batch"] for _, note in _notes(store) if note["recipe"] == work.recipe_fingerprint), default=None)


def _reusable_shards(work: PartBuild, batch: int, store: WorkStore) -> dict[str, Path]:
    """Return shards of other workspaces by the hash of their inputs."""
    reusable: dict[str, Path] = {}
    for path, note in _notes(store):
        if (note["recipe"], note["batch"]) == (work.recipe_fingerprint, batch):
            shards = {made_from: path.parent / shard_name(n) for n, made_from in enumerate(note["inputs"])}
            reusable |= {made_from: shard for made_from, shard in shards.items() if shard.exists()}
    return reusable


def _notes(store: WorkStore) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the readable build records of all workspaces."""
    for path in sorted(store.root.resolve().glob(f"embed-*/{BUILD_INFO}")):
        with suppress(CacheError):
            yield path, read_checksummed_json(path)
