"""Embeddings of several teachers as one: concatenated unit vectors, so that cosines are averaged.

    x = [x₁/‖x₁‖ … x_T/‖x_T‖]/√T,   cos(x, t) = mean of cos(x_i, t_i)

as in MobileCLIP's dataset reinforcement with two CLIPs (Vasu et al., 2024). If a teacher has no text tower, its part of
a text is zeros: the cosine is then the mean over the other teachers, times a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import StaleError
from cache.fingerprint import fingerprint
from cache.manifest import CAPTIONS, PROMPTS, TEXT, Manifest, ManifestPart, ShardRecord, is_view
from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from cache.rows import LazyShards, Verify
from cache.teachers import ENSEMBLE, find_folders

TEXTS = (TEXT, PROMPTS)


def open_store(folder: Path, teacher: Mapping[str, Any] | None = None, verify: Verify = "hash") -> EmbeddingStore:
    """Return the embeddings of a split by the teacher or ensemble with these facts; by default by the first teacher.

    Raises:
        MissingError, DamagedError: the embeddings do not exist, or changed.
        StaleError: the split was not embedded by this teacher.
    """
    if teacher is None:
        return EmbeddingStore.open(folder, verify)
    stores = [EmbeddingStore.open(path, verify) for path in find_folders(folder, teacher)]
    return join_stores(stores) if ENSEMBLE in teacher else stores[0]


def join_stores(stores: Sequence[EmbeddingStore]) -> EnsembleStore:
    """Return the embeddings of one split by several teachers as those of their ensemble.

    Raises:
        StaleError: they have different images, or different views of them.
    """
    first = stores[0]
    for store in stores[1:]:
        if store.manifest.source != first.manifest.source or store.views != first.views:
            raise StaleError(
                f"{store.folder}: {store.views} views of {store.manifest.source}, but {first.folder} has {first.views} "
                f"of {first.manifest.source}. Run `dvc repro embed`."
            )
        for view in range(first.views):
            if not np.array_equal(store.boxes(view), first.boxes(view)):
                raise StaleError(
                    f"{store.folder}: its teacher saw other parts of the images in view {view} than that of "
                    f"{first.folder}: one of them squashes what the other crops. They make no ensemble."
                )
    return EnsembleStore(stores)


def ensemble_facts(teachers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts that identify an ensemble's embeddings, under the same names as those of one teacher.

    The logit scale is the mean of the teachers with a text tower, corrected for the zeros of the others.
    """
    readers = [teacher for teacher in teachers if teacher.get("context_length", 1)]
    first = readers[0] if readers else teachers[0]
    scale = np.mean([float(teacher.get("logit_scale", 100.0)) for teacher in readers or teachers])
    own = {name: first[name] for name in ("preprocess", "tokenizer", "image_size", "context_length") if name in first}
    marks = "\n".join(str(teacher.get("weights_sha256")) for teacher in teachers)
    return {
        **own,
        "model": " + ".join(str(teacher["model"]) for teacher in teachers),
        "weights_sha256": sha256(marks.encode()).hexdigest(),
        "dim": sum(int(teacher["dim"]) for teacher in teachers),
        "logit_scale": float(scale * sqrt(len(teachers) / max(len(readers), 1))),
        ENSEMBLE: [dict(teacher) for teacher in teachers],
    }


def unit_blocks(rows: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return rows whose blocks of these widths have equal norms, and whose total norm is one.

    A zero block stays zero.
    """
    blocks = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    return l2_normalize(np.concatenate([l2_normalize(block, np.float64) for block in blocks], axis=1))


@dataclass(frozen=True)
class EnsembleShards(LazyShards):
    """Shards of one part by several teachers, concatenated on access; the last one is cached."""

    own: tuple[LazyShards | None, ...] = ()
    """Shards of each member; None if it has no text tower."""
    sizes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(next(shards for shards in self.own if shards is not None))

    def __getitem__(self, number: int) -> Any:
        if number not in self._opened:
            self._opened.clear()
            self._opened[number] = self._open(number)
        return self._opened[number]

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def _open(self, number: int) -> Any:
        member_shards = [None if shards is None else shards[number] for shards in self.own]
        first = next(shard for shard in member_shards if shard is not None)
        rows = len(first.embedding)
        blocks = [
            np.zeros((rows, size), np.float32) if shard is None else shard.embedding
            for shard, size in zip(member_shards, self.sizes, strict=True)
        ]
        return replace(first, embedding=unit_blocks(np.concatenate(blocks, axis=1), self.sizes))


class EnsembleStore(EmbeddingStore):
    """Embeddings of a split by an ensemble: rows are concatenated on reading, and nothing is written."""

    def __init__(self, stores: Sequence[EmbeddingStore]) -> None:
        first = stores[0]
        super().__init__(first.folder, _joined_manifest(stores), first._verify)
        self.members = tuple(stores)

    def shards(self, part: str) -> LazyShards:
        """Return the shards of a part of all members; raises MissingError if no member has it."""
        if part not in self.manifest.parts:
            return super().shards(part)
        own = tuple(store.shards(part) if part in store.manifest.parts else None for store in self.members)
        sizes = tuple(store.dim for store in self.members)
        return EnsembleShards(self.folder, part, self.manifest, self._verify, own, sizes)

    def shard_paths(self, part: str) -> list[Path]:
        """Return the files of a part of all members."""
        return [path for store in self.members if part in store.manifest.parts for path in store.shard_paths(part)]


def _joined_manifest(stores: Sequence[EmbeddingStore]) -> Manifest:
    first = stores[0].manifest
    teacher = ensemble_facts([store.manifest.teacher for store in stores])
    names = [name for name in first.parts if is_view(name)]
    names += [name for name in TEXTS if any(name in store.manifest.parts for store in stores)]
    names += sorted({CAPTIONS + name for store in stores for name in store.manifest.caption_files})
    return replace(first, teacher=teacher, parts={name: _joined_part(stores, name) for name in names})


def _joined_part(stores: Sequence[EmbeddingStore], name: str) -> ManifestPart:
    parts = [store.manifest.parts[name] for store in stores if name in store.manifest.parts]
    shards = tuple(
        ShardRecord(each[0].name, each[0].rows, sha256("".join(shard.sha256 for shard in each).encode()).hexdigest())
        for each in zip(*(part.shards for part in parts), strict=True)
    )
    return ManifestPart(fingerprint({"members": [part.fingerprint for part in parts]}), parts[0].facts, shards)
