"""Take over shards that an earlier packing of the same samples has: one changed image costs one shard, not all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.manifest import shard_name
from cache.sealed import read_sealed, write_sealed
from cache.shard import read_shard
from cache.store import Store
from pipeline.teacher.parts import Work

NOTE = "work.json"
"""What a workspace is made of: the recipe, the inputs of each shard, and the batch size."""


def agree_on_batch(works: Sequence[Work], store: Store, asked: int | None, find: Callable[[], int]) -> int:
    """Note what each part is made of, and return the batch size with which the first was begun.

    The last bits of an embedding depend on it, so a part that was begun with one keeps it. A new part has the one
    asked for; where none was, that of an earlier packing, whose shards can be taken over, or one that is found.
    """
    batch = _begun_with(works[0]) or asked or _before(works[0], store) or find()
    for work in works:
        if not (work.folder / NOTE).exists():
            write_sealed(work.folder / NOTE, {"recipe": work.recipe, "inputs": list(work.inputs), "batch": batch})
    return batch


def adopt(work: Work, batch: int, store: Store) -> None:
    """Copy the shards that a part lacks and another workspace made by the same recipe from the same inputs."""
    lacking = [number for number in range(work.shards) if not (work.folder / shard_name(number)).exists()]
    donors = _donors(work, batch, store) if lacking else {}
    for number in lacking:
        if (path := donors.get(work.inputs[number])) and path.exists():
            with suppress(CacheError):  # what is damaged is no donor: the teacher is asked instead
                work.write(number, read_shard(path, work.kind, path.parent.name.rpartition("-")[2]))


def _begun_with(work: Work) -> int | None:
    note = work.folder / NOTE
    return int(read_sealed(note)["batch"]) if note.exists() else None


def _before(work: Work, store: Store) -> int | None:
    """Return the batch size of other workspaces of the same recipe, the smallest where they differ."""
    return min((note["batch"] for _, note in _notes(store) if note["recipe"] == work.recipe), default=None)


def _donors(work: Work, batch: int, store: Store) -> dict[str, Path]:
    """Return shards of other workspaces by the hash of what they were made from."""
    found: dict[str, Path] = {}
    for path, note in _notes(store):
        if (note["recipe"], note["batch"]) == (work.recipe, batch):
            found |= {made_from: path.parent / shard_name(n) for n, made_from in enumerate(note["inputs"])}
    return found


def _notes(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the notes of all workspaces that can be read."""
    for path in sorted(store.root.resolve().glob(f"embed-*/{NOTE}")):
        with suppress(CacheError):
            yield path, read_sealed(path)
