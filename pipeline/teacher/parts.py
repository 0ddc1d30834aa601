"""What a split's embeddings consist of, and which of it is there already.

Each part (a view, the text, the prompts) has a workspace of its own in the store, named by what decides it: more
views, captions or classes add parts, and leave the others untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import DamagedError, StaleError
from cache.fingerprint import fingerprint, sha256_bytes
from cache.manifest import Part, ShardRecord, shard_name, view_name
from cache.shard import ImageShard, PromptShard, Shard, TextShard, record_shard, write_shard
from cache.store import Store
from pipeline.data.samples import Packed
from pipeline.data.views import ViewParams

TEXT, PROMPTS = "text", "prompts"
FORMAT = 1


@dataclass(frozen=True)
class Work:
    """One part in the making: shard i of it belongs to packed shard i; prompts are a single shard."""

    name: str
    facts: dict[str, Any]
    folder: Path
    inputs: tuple[str, ...]
    """What each shard is made from: the hash of its packed images or captions."""

    @property
    def shards(self) -> int:
        """Return how many shards there are."""
        return len(self.inputs)

    @property
    def recipe(self) -> str:
        """Return how its shards are made, whatever they are made from."""
        return fingerprint({name: fact for name, fact in self.facts.items() if name not in ("images", "captions")})

    @property
    def fingerprint(self) -> str:
        """Return what names the workspace."""
        return fingerprint(self.facts)

    def finished(self) -> dict[int, ShardRecord]:
        """Return the shards that are there and whole; a damaged one, or one of an older format, is made again."""
        found = {}
        for number in range(self.shards):
            path = self.folder / shard_name(number)
            if path.exists():
                try:
                    found[number] = record_shard(path, self.kind, self.fingerprint)
                except (DamagedError, StaleError) as error:
                    print(f"made again: {error}", file=sys.stderr)
                    path.unlink()
        return found

    def write(self, number: int, shard: Shard) -> None:
        """Write one finished shard."""
        write_shard(self.folder / shard_name(number), shard, self.fingerprint)

    def part(self, records: Mapping[int, ShardRecord]) -> Part:
        """Return the finished part as the manifest has it."""
        return Part(self.fingerprint, self.facts, tuple(records[number] for number in range(self.shards)))

    @property
    def kind(self) -> type[Any]:
        """Return the class of its shards."""
        return {TEXT: TextShard, PROMPTS: PromptShard}.get(self.name, ImageShard)


def plan_parts(packed: Packed, teacher: Mapping[str, Any], views: ViewParams, store: Store) -> list[Work]:
    """Return all parts of a split: its views, and prompts for a zero-shot set or text where there are captions."""
    images = tuple(shard.images_sha256 for shard in packed.shards)
    captions = tuple(shard.captions_sha256 for shard in packed.shards)
    parts: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        view_name(index): ({"images": _digest(images), "view": views.facts(index)}, images)
        for index in range(views.crops + 1)
    }
    if packed.classes:
        parts[PROMPTS] = ({"classes": list(packed.classes), "templates": list(packed.templates)}, (PROMPTS,))
    elif _captioned(packed):
        parts[TEXT] = ({"captions": _digest(captions)}, captions)
    works = []
    for name, (decides, inputs) in parts.items():
        facts = {"format": FORMAT, "teacher": dict(teacher), **decides}
        works.append(Work(name, facts, store.workspace("embed", fingerprint(facts)).resolve(), inputs))
    return works


def _digest(digests: tuple[str, ...]) -> str:
    return sha256_bytes("\n".join(digests).encode())


def _captioned(packed: Packed) -> bool:
    if "captions" in packed.counts:  # `pack` has counted them
        return packed.counts["captions"] > 0
    return any(sample.captions for number in range(len(packed.shards)) for sample in packed.read(number, "size"))
