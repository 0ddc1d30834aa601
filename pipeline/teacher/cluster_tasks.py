"""Shards of embeddings as tasks of a Dask cluster, on workers that see the driver's folders or have their own.

Without `runtime.remote` a worker reads and writes the driver's folders by their whole paths. With it, `--root` counts
from the working directory of each worker: it reads its own packed shards, writes to its own store, and puts what it has
made to object storage, from which the driver fetches it. A task that is done twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from cache.errors import MissingError
from cache.manifest import shard_name
from cache.work_store import WorkStore
from pipeline.data.packing.cluster_tasks import fetch_packed
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.project.cluster import WorkerEnvironment, map_tasks, require_equal, require_folder, worker_label
from pipeline.project.errors import PipelineError, WorkerMismatchError
from pipeline.project.layout import Layout
from pipeline.project.remote.store import RemoteStore
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.parts import LIBRARIES, PartBuild, resolve_batch_size
from pipeline.teacher.worker import EmbedJob, embed_shards

PREPARATION_SECONDS = 600.0
"""A task waits so long for another of the same folder to note what is made there."""


@dataclass(frozen=True)
class EmbedContext:
    """What all tasks of a job have in common."""

    job: EmbedJob
    layout: Layout
    environment: WorkerEnvironment


def embed_on_cluster(layout: Layout, job: EmbedJob, advance: Callable[[int, str], None]) -> None:
    """Make each shard that a job lacks as a task of the cluster behind `runtime.scheduler`.

    Raises:
        WorkerMismatchError: a worker has another teacher, packed split, code, library or batch size than this process.
        PipelineError: the cluster does not answer, or what a worker has made does not arrive.
    """
    context = EmbedContext(job, layout, WorkerEnvironment.current(("embed",), LIBRARIES))
    for number, worker in map_tasks(str(job.runtime.scheduler), embed_task, context, list(job.missing)):
        for part in _parts_of(job, number):
            if part.remote is not None:
                _fetch(part, part.remote, number, worker)
        advance(job.for_shard(number).embeddings, "")


def embed_task(context: EmbedContext, number: int) -> str:
    """Make what one packed shard lacks, on a worker; return the name of the worker.

    Raises:
        WorkerMismatchError: the worker is not set up as the driver is.
        CacheError, PipelineError: as `embed_shards` does.
    """
    context.environment.require_here()
    job, remote = context.job, context.job.parts[0].remote
    if remote is not None:
        job = _with_own_folders(job, context.layout, number, remote)
    require_folder(job.packed.folder)
    teacher = _require_teacher(job)
    lacking = []
    for part in _parts_of(job, number):
        if part.remote is None or part.finished_shard(number) is None:
            lacking.append(part.name)
        else:
            part.remote.put(part.folder.name, part.folder / shard_name(number))
    if lacking:
        embed_shards(replace(job, missing={number: tuple(lacking)}), teacher, lambda _rows, _note: None)
    return worker_label()


def _parts_of(job: EmbedJob, number: int) -> list[PartBuild]:
    return [part for part in job.parts if part.name in job.missing[number]]


def _fetch(part: PartBuild, remote: RemoteStore, number: int, worker: str) -> None:
    """Bring what a worker has made to this machine; raises PipelineError where it is not there, or damaged."""
    name = shard_name(number)
    if not (part.folder / name).exists() and remote.fetch(part.folder.name, name, part.folder) is None:
        raise PipelineError(
            f"{remote.root}/{part.folder.name}/{name}: not there, or damaged, after {worker} has put it. Run the same "
            "command again: what is finished is kept."
        )


def _with_own_folders(job: EmbedJob, layout: Layout, number: int, remote: RemoteStore) -> EmbedJob:
    """Return the job with the packed split and the workspaces of the worker's own project.

    Raises:
        WorkerMismatchError: it has another packed split, none and nothing to fetch, or began with another batch size.
    """
    store = WorkStore(layout.store)
    folder = _find_packed(job.packed, layout, number, store, remote)
    parts = tuple(replace(part, folder=store.workspace("embed", part.fingerprint).resolve()) for part in job.parts)
    with store.lock("embed", f"{parts[0].fingerprint}-worker", PREPARATION_SECONDS):
        batch = resolve_batch_size(parts, store, job.batch, lambda: job.batch)
    require_equal(f"batch size of {parts[0].folder}", batch, job.batch, "Move this folder away.")
    return replace(job, packed=replace(job.packed, folder=folder, base=Path.cwd()), parts=parts)


def _find_packed(packed: PackedSplit, layout: Layout, number: int, store: WorkStore, remote: RemoteStore) -> Path:
    """Return the folder of a packed shard on a worker: its own packed split, or a shard that `pack` put for others."""
    folder = layout.packed(packed.split).resolve()
    try:
        found = open_packed(folder).digest
    except MissingError:
        if (fetched := fetch_packed(packed, number, store, remote)) is not None:
            return fetched.resolve()
        raise WorkerMismatchError(
            f"{worker_label()}: {folder}: no packed split, expected {packed.digest} as at the driver. Bring its "
            "data/packed there, or run `pack` on the cluster, which puts the shards to runtime.remote."
        ) from None
    require_equal(f"packed split {folder}", found, packed.digest, "Bring the driver's data/packed there.")
    return folder


def _require_teacher(job: EmbedJob) -> Teacher:
    """Return the worker's teacher; raises WorkerMismatchError where it is another than the driver's."""
    teacher, expected = _load(job.teacher, job.runtime.device), job.parts[0].fingerprint_inputs["teacher"]
    facts = teacher.identity.facts()
    for name in ("weights_sha256", *sorted(facts)):
        require_equal(f"teacher's {name}", facts[name], expected[name], f"Load {job.teacher.name} as the driver does.")
    return teacher


@lru_cache(maxsize=1)
def _load(params: TeacherParams, device: str) -> Teacher:
    return load_teacher(params, device)
