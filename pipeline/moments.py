"""Add up means and co-moments of the training embeddings: one streaming pass, on threads or a cluster."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import dask
import numpy as np
from dask.callbacks import Callback
from pydantic import Field
from threadpoolctl import threadpool_limits

from cache.errors import DamagedError
from cache.manifest import ShardRecord
from cache.reader import EmbeddingStore
from cache.shard import ImageShard, TextShard, read_shard
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection
from pipeline.project.progress import progress
from pipeline.project.runtime import Runtime
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.moments_file import embeddings_digest, save_moments
from pipeline.whitening.norms import NormMode

Captions = Literal["all", "first"]
Measured = dict[NormMode, CoMoments]

MERGED_AT_ONCE = 8
"""Results merged by one task, and so the shape of the tree: it never depends on the number of workers."""


class MomentsParams(ParamsSection):
    """The `moments:` section."""

    pre_norm: tuple[NormMode, ...] = Field(default=("l2",), min_length=1)
    """Which conventions for lengths to measure; target spaces can use these only."""
    captions: Captions = "all"
    """Whether all captions of an image are text rows, or the first only."""


@dataclass(frozen=True)
class ShardFile:
    """What a worker needs to open one shard and to know that it is the right one."""

    path: Path
    fingerprint: str
    record: ShardRecord
    hashed: bool


def moments(params: MomentsParams, layout: Layout, runtime: Runtime) -> Path:
    """Measure data/embeddings/train and write data/moments.h5.

    One task a shard, merged by a tree whose shape is fixed: the result does not depend on the workers.

    Raises:
        CacheError: the embeddings are missing, damaged or of different inputs.
    """
    store = EmbeddingStore.open(layout.embeddings("train").absolute(), verify=runtime.verify)
    measured = compute(plan(store, params, hashed=runtime.verify == "hash"), runtime.scheduler)
    save_moments(layout.moments, measured, store.manifest.teacher, embeddings_digest(store.manifest), params.captions)
    return layout.moments


def plan(store: EmbeddingStore, params: MomentsParams, *, hashed: bool) -> Any:
    """Return the delayed co-moments of a store: one task a shard, merged eight at a time."""
    parts = [name for name in sorted(store.manifest.parts) if name != "prompts"]
    columns = [_files(store, name, hashed) for name in parts]
    results = [
        dask.delayed(measure_shard)(dict(zip(parts, files, strict=True)), params)
        for files in zip(*columns, strict=True)
    ]
    while len(results) > 1:
        groups = range(0, len(results), MERGED_AT_ONCE)
        results = [dask.delayed(merge)(results[first : first + MERGED_AT_ONCE]) for first in groups]
    return results[0]


def compute(result: Any, scheduler: str | None) -> Measured:
    """Compute on threads of this process with one BLAS thread each, or on the cluster behind an address.

    A cluster's workers set one BLAS thread each when they start.
    """
    if scheduler is None:
        tasks = len(result.__dask_graph__())
        with (
            threadpool_limits(1, "blas"),
            progress("moments", tasks, "tasks") as advance,
            Callback(posttask=lambda *_: advance()),
        ):
            return cast("Measured", result.compute(scheduler="threads"))
    from distributed import Client

    with Client(scheduler) as client:
        return cast("Measured", client.compute(result).result())


def measure_shard(files: dict[str, ShardFile], params: MomentsParams) -> Measured:
    """Return the co-moments of one shard under each pre-normalisation.

    Raises:
        CacheError: a file is damaged, or views and captions are not of the same images.
    """
    images = [_read(file, ImageShard) for name, file in files.items() if name != "text"]
    views = [image.embedding for image in images]
    captions: tuple[Any, Any] = (None, None)
    if "text" in files:
        text = _read(files["text"], TextShard)
        if text.keys != images[0].keys:
            raise DamagedError(f"{files['text'].path}: other images than its views have. Run `dvc repro embed`.")
        captions = _captions(text, params.captions)
    return {norm: estimate_comoments(norm, views, *captions) for norm in params.pre_norm}


def merge(results: Sequence[Measured]) -> Measured:
    """Return the co-moments of several shards together."""
    return {norm: functools.reduce(CoMoments.merge, (each[norm] for each in results)) for norm in results[0]}


def _files(store: EmbeddingStore, part: str, hashed: bool) -> list[ShardFile]:
    found = store.manifest.parts[part]
    paths = store.shard_paths(part)
    return [ShardFile(path, found.fingerprint, shard, hashed) for path, shard in zip(paths, found.shards, strict=True)]


def _read(file: ShardFile, kind: type[Any]) -> Any:
    return read_shard(file.path, kind, file.fingerprint, file.record, hashed=file.hashed)


def _captions(shard: TextShard, which: Captions) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the captions, and where each image's begin."""
    if which == "all":
        return shard.embedding, shard.offsets
    some = np.diff(shard.offsets) > 0
    return shard.embedding[shard.offsets[:-1][some]], np.concatenate([[0], np.cumsum(some)])
