"""Take over shards that an earlier packing of the same samples has: one changed image costs one shard, not all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cache.errors import CacheError
from cache.manifest import shard_name
from cache.sealed import read_sealed, write_sealed
from cache.shard import read_shard
from cache.store import Store
from pipeline.teacher.parts import Work

NOTE = "work.json"
"""What a workspace is made of: the recipe, the inputs of each shard, and the batch size."""


def agree_on_batch(works: Sequence[Work], batch: int) -> int:
    """Note what each part is made of, and return the batch size with which the first was begun.

    The last bits of an embedding depend on it, so a part that was begun with one keeps it.
    """
    first = works[0].folder / NOTE
    agreed = int(read_sealed(first)["batch"]) if first.exists() else batch
    for work in works:
        if not (work.folder / NOTE).exists():
            note = {"recipe": work.recipe, "inputs": list(work.inputs), "batch": agreed}
            write_sealed(work.folder / NOTE, note)
    return agreed


def adopt(work: Work, batch: int, store: Store) -> None:
    """Copy the shards that a part lacks and another workspace made by the same recipe from the same inputs."""
    lacking = [number for number in range(work.shards) if not (work.folder / shard_name(number)).exists()]
    donors = _donors(work, batch, store) if lacking else {}
    for number in lacking:
        if (path := donors.get(work.inputs[number])) and path.exists():
            with suppress(CacheError):  # what is damaged is no donor: the teacher is asked instead
                work.write(number, read_shard(path, work.kind, path.parent.name.rpartition("-")[2]))


def _donors(work: Work, batch: int, store: Store) -> dict[str, Path]:
    """Return shards of other workspaces by the hash of what they were made from."""
    found: dict[str, Path] = {}
    for path in sorted(store.root.resolve().glob(f"embed-*/{NOTE}")):
        with suppress(CacheError):
            note = read_sealed(path)
            if (note["recipe"], note["batch"]) == (work.recipe, batch):
                found |= {made_from: path.parent / shard_name(n) for n, made_from in enumerate(note["inputs"])}
    return found
