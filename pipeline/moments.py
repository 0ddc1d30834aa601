"""Compute means and co-moments of the training embeddings in one streaming pass, on threads or a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import dask
import numpy as np
from dask.callbacks import Callback
from pydantic import Field
from threadpoolctl import threadpool_limits

from cache.ensemble import join_stores, unit_blocks
from cache.errors import DamagedError
from cache.manifest import TEXT, ShardRecord, view_name
from cache.reader import EmbeddingStore
from cache.shard import ImageShard, TextShard, read_shard
from cache.teachers import JOINT, teacher_folders
from pipeline.project.cluster import WorkerEnvironment, compute_delayed
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection, Runtime
from pipeline.project.progress import progress
from pipeline.project.remote.store import RemoteStore
from pipeline.whitening.comoments import CoMoments, NormMode
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.moments_file import MeasuredTeacher, embeddings_digest, save_moments
from pipeline.whitening.worker_shards import WorkerShards, run_on_worker

Captions = Literal["all", "first"]
Measured = dict[NormMode, CoMoments]
LIBRARIES = ("numpy",)
"""Whose versions all workers of a cluster share."""

MERGED_AT_ONCE = 8
"""Results merged by one task. It fixes the tree of merges, independent of the number of workers."""


class MomentsParams(ParamsSection):
    """The `moments:` section."""

    pre_norm: tuple[NormMode, ...] = Field(default=("l2",), min_length=1)
    """Normalizations for which moments are computed; target spaces can use only these."""
    captions: Captions = "all"
    """Use all captions of an image, or the first only."""
    ensembles: tuple[tuple[str, ...], ...] | None = Field(default=None, exclude_if=lambda names: names is None)
    """Ensembles of teachers to measure; default: all teachers, in order."""


@dataclass(frozen=True)
class ShardFile:
    """What a worker needs to open and verify one shard."""

    path: Path
    fingerprint: str
    record: ShardRecord
    hashed: bool
    own: WorkerShards | None = None
    """Where a worker finds it that does not see this path."""


def moments(params: MomentsParams, layout: Layout, runtime: Runtime) -> Path:
    """Measure data/embeddings/train, for each teacher and ensemble, and write data/moments.h5.

    One task per shard, merged by a tree of fixed shape: the result does not depend on the workers.

    Raises:
        CacheError: the embeddings are missing, damaged or of different inputs.
        UsageError: an ensemble with an unknown teacher.
        WorkerMismatchError: a worker of a cluster is not set up as this process is.
    """
    folders = teacher_folders(layout.embeddings("train").absolute())
    stores = {name: EmbeddingStore.open(folder, verify=runtime.verify) for name, folder in folders.items()}
    measured = {name: _measure(store, [store], params, layout, runtime) for name, store in stores.items()}
    for names in _ensembles(params.ensembles, tuple(stores)):
        own = [stores[name] for name in names]
        measured[JOINT.join(names)] = _measure(join_stores(own), own, params, layout, runtime)
    (name, first), *others = measured.items()
    facts = first.teacher, first.embeddings_digest, params.captions
    save_moments(layout.moments, first.by_pre_norm, *facts, name, dict(others))
    return layout.moments


def _ensembles(requested: tuple[tuple[str, ...], ...] | None, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the ensembles to measure; raises UsageError if one is empty or has a single teacher."""
    if requested is None:
        return (names,) if len(names) > 1 else ()
    for ensemble in requested:
        if len(ensemble) < 2 or not set(ensemble) <= set(names):
            raise UsageError(
                f"params: 'moments.ensembles': {list(ensemble)}: expected two or more of embed.teachers "
                f"[{', '.join(names)}]"
            )
    return requested


def _measure(
    store: EmbeddingStore, members: Sequence[EmbeddingStore], params: MomentsParams, layout: Layout, runtime: Runtime
) -> MeasuredTeacher:
    own = WorkerShards(layout, RemoteStore(runtime.remote)) if runtime.scheduler and runtime.remote else None
    environment = WorkerEnvironment.current(("moments",), LIBRARIES) if runtime.scheduler else None
    plan = plan_moments(members, params, hashed=runtime.verify == "hash", environment=environment, own=own)
    measured = compute(plan, runtime.scheduler)
    return MeasuredTeacher(measured, store.manifest.teacher, embeddings_digest(store.manifest))


def plan_moments(
    members: Sequence[EmbeddingStore],
    params: MomentsParams,
    *,
    hashed: bool,
    environment: WorkerEnvironment | None = None,
    own: WorkerShards | None = None,
) -> Any:
    """Return the delayed co-moments of a teacher or an ensemble: one task per shard, merged in groups of eight.

    For a cluster, `environment` is what its workers must have in common with this process.
    """

    def delayed(function: Callable[..., Measured], *args: Any) -> Any:
        if environment is not None:
            return dask.delayed(run_on_worker)(environment, function, *args)
        return dask.delayed(function)(*args)

    shards = zip(*(_shard_files(store, hashed, own) for store in members), strict=True)
    results = [
        delayed(measure_joint, files, params) if len(files) > 1 else delayed(measure_shard, files[0], params)
        for files in shards
    ]
    while len(results) > 1:
        groups = range(0, len(results), MERGED_AT_ONCE)
        results = [delayed(merge, results[first : first + MERGED_AT_ONCE]) for first in groups]
    return results[0]


def compute(result: Any, scheduler: str | None) -> Measured:
    """Compute on threads of this process with one BLAS thread each, or on the cluster at an address."""
    if scheduler is not None:
        return cast("Measured", compute_delayed(scheduler, result))
    tasks = len(result.__dask_graph__())
    with (
        threadpool_limits(1, "blas"),
        progress("moments", tasks, "tasks") as advance,
        Callback(posttask=lambda *_: advance()),
    ):
        return cast("Measured", result.compute(scheduler="threads"))


def measure_shard(files: dict[str, ShardFile], params: MomentsParams) -> Measured:
    """Return the co-moments of one shard for each pre-normalization.

    Raises:
        CacheError: a file is damaged, or views and captions belong to different images.
    """
    images = [_read(file, ImageShard) for name, file in files.items() if name != TEXT]
    views = [image.embedding for image in images]
    captions: tuple[Any, Any] = (None, None)
    if TEXT in files:
        text = _read(files[TEXT], TextShard)
        if text.keys != images[0].keys:
            raise DamagedError(f"{files['text'].path}: other images than its views have. Run `dvc repro embed`.")
        captions = _captions(text, params.captions)
    return {norm: estimate_comoments(norm, views, *captions) for norm in params.pre_norm}


def measure_joint(members: Sequence[dict[str, ShardFile]], params: MomentsParams) -> Measured:
    """Return the co-moments of one shard for an ensemble, on unit vectors.

    Raises:
        CacheError: a file is damaged, or the teachers' shards belong to different images.
    """
    sizes: list[int] = []
    parts: dict[str, list[Any]] = {}
    for files in members:
        shards = {name: _read(file, TextShard if name == TEXT else ImageShard) for name, file in files.items()}
        sizes.append(shards[view_name(0)].embedding.shape[1])
        for name, shard in shards.items():
            parts.setdefault(name, []).append(shard)
        if shards[view_name(0)].keys != parts[view_name(0)][0].keys:
            raise DamagedError(f"{files[view_name(0)].path}: other images than another teacher has. Embed again.")
    views = [
        unit_blocks(np.concatenate([shard.embedding for shard in part_shards], axis=1), sizes)
        for name, part_shards in parts.items()
        if name != TEXT
    ]
    captions: tuple[Any, Any] = (None, None)
    if TEXT in parts:
        readers = iter(parts[TEXT])
        texts = [next(readers) if TEXT in files else None for files in members]
        captions = _joint_captions(texts, sizes, params.captions)
    return {"l2": estimate_comoments("l2", views, *captions)}


def _joint_captions(
    texts: Sequence[TextShard | None], sizes: Sequence[int], which: Captions
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ensemble's rows of the captions, zeros for members without text, and the first row of each image."""
    captions = [None if text is None else _captions(text, which) for text in texts]
    first, offsets = next(each for each in captions if each is not None)
    blocks = [
        np.zeros((len(first), size), np.float32) if each is None else each[0]
        for each, size in zip(captions, sizes, strict=True)
    ]
    return unit_blocks(np.concatenate(blocks, axis=1), sizes), offsets


def merge(results: Sequence[Measured]) -> Measured:
    """Return the co-moments of the union of several shards."""
    return {norm: functools.reduce(CoMoments.merge, (each[norm] for each in results)) for norm in results[0]}


def _shard_files(store: EmbeddingStore, hashed: bool, own: WorkerShards | None) -> list[dict[str, ShardFile]]:
    """Return for each shard its files by part."""
    parts = [name for name in store.manifest.sharded_parts if name in store.manifest.pooled_parts]
    columns = [_files(store, name, hashed, own) for name in parts]
    return [dict(zip(parts, files, strict=True)) for files in zip(*columns, strict=True)]


def _files(store: EmbeddingStore, part: str, hashed: bool, own: WorkerShards | None) -> list[ShardFile]:
    record = store.manifest.parts[part]
    pairs = zip(store.shard_paths(part), record.shards, strict=True)
    return [ShardFile(path, record.fingerprint, shard, hashed, own) for path, shard in pairs]


def _read(file: ShardFile, kind: type[Any]) -> Any:
    if file.own is not None:
        return file.own.read(file.path.name, kind, file.fingerprint, file.record, hashed=file.hashed)
    return read_shard(file.path, kind, file.fingerprint, file.record, hashed=file.hashed)


def _captions(shard: TextShard, which: Captions) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the captions, and the first row of each image."""
    if which == "all":
        return shard.embedding, shard.offsets
    some = np.diff(shard.offsets) > 0
    return shard.embedding[shard.offsets[:-1][some]], np.concatenate([[0], np.cumsum(some)])
