"""Packed shards as tasks of a Dask cluster, on workers that see the driver's folders or have their own.

Without `runtime.remote` a worker reads the source and writes the store by the driver's paths. With it, relative paths
of the source and `--root` count from the working directory of each worker: it writes to its own store and puts the
shard to object storage, from which the driver fetches it. The driver compares size and SHA-256 of every shard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cache.atomic import link_or_copy, read_checksummed_json, write_checksummed_json
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.packing.worker import PackJob, PackResult, load_finished, pack_shards
from pipeline.project.cluster import WorkerEnvironment, map_tasks, require_equal, require_folder
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.remote.lock import remote_lock
from pipeline.project.remote.store import RemoteStore

UNITS, LIBRARIES = ("pack", "synthetic"), ("numpy", "pillow")
OBJECTS = "objects.json"
"""Below `packed-<digest>/` in object storage: which object is which shard of a packed split."""


@dataclass(frozen=True)
class PackContext:
    """What all tasks of a split have in common."""

    layout: Layout
    directory: Path
    """Working directory of the driver, from which relative paths of a source count."""
    environment: WorkerEnvironment
    remote: RemoteStore | None


def pack_on_cluster(
    jobs: Sequence[PackJob], layout: Layout, runtime: Runtime, advance: Callable[[int], None]
) -> list[PackResult]:
    """Pack each shard that is not there yet as a task of the cluster behind `runtime.scheduler`; return all in order.

    Raises:
        UsageError: by reference on workers with file systems of their own.
        WorkerMismatchError: a worker has another code, library or folder than this process.
        PipelineError: the cluster does not answer, or what a worker has packed does not arrive.
        LockedError: another machine packs the same.
    """
    remote = RemoteStore(runtime.remote) if runtime.remote else None
    if remote and any(job.by_reference for job in jobs):
        raise UsageError(
            "params: 'pack.mode: reference' refers to files of one file system, and 'runtime.remote' is for workers "
            "that share none. Set mode: copy."
        )
    finished = {job.path.name: found for job in jobs if (found := load_finished(job.path)) is not None}
    with ExitStack() as stack:
        if remote and len(finished) < len(jobs):
            stack.enter_context(remote_lock(remote.root, jobs[0].path.parent.name))
            finished |= _fetch_finished([job for job in jobs if job.path.name not in finished], remote)
        advance(sum(len(job.entries) for job in jobs if job.path.name in finished))
        missing = [replace(job, path=job.path.absolute()) for job in jobs if job.path.name not in finished]
        context = PackContext(layout, Path.cwd(), WorkerEnvironment.current(UNITS, LIBRARIES), remote)
        for job, result in map_tasks(str(runtime.scheduler), pack_task, context, missing) if missing else ():
            if remote:
                _fetch(job, remote)
            if load_finished(job.path) != result:
                raise PipelineError(f"{job.path}: not the shard that a worker packed. Run the same command again.")
            finished[job.path.name] = result
            advance(len(job.entries))
    return [finished[job.path.name] for job in jobs]


def pack_task(context: PackContext, job: PackJob) -> PackResult:
    """Pack one shard on a worker.

    Raises:
        WorkerMismatchError: the worker is not set up as the driver is.
        PipelineError: a file of the source is not there, or not the one that was listed.
    """
    context.environment.require_here()
    remote, workspace = context.remote, job.path.parent
    if remote is None:
        require_folder(workspace)
        if _has_relative_paths(job.source):
            require_equal("working directory", Path.cwd(), context.directory, "Start the worker there.")
    else:
        stage, _, mark = workspace.name.partition("-")
        job = replace(job, path=WorkStore(context.layout.store).workspace(stage, mark) / job.path.name)
    (result,) = pack_shards([job])
    if remote is not None:
        for path in (job.path, job.path.with_suffix(".json")):
            remote.put(workspace.name, path)
    return result


def put_objects(packed: PackedSplit, files: Mapping[str, Path], workspace: Path, remote: RemoteStore) -> None:
    """Put which object of a workspace is which shard, so that workers can fetch the shards of this split."""
    path = workspace / f"{packed.split}-{OBJECTS}"
    names = {shard.name: files[shard.name].name for shard in packed.shards}
    write_checksummed_json(path, {"workspace": workspace.name, "names": names})
    remote.put(f"packed-{packed.digest}", path)


def fetch_packed(packed: PackedSplit, number: int, store: WorkStore, remote: RemoteStore) -> Path | None:
    """Bring one packed shard to a folder of the store; return the folder, or nothing where it was not put."""
    folder, name = store.workspace("packed", packed.digest), packed.shards[number].name
    if (folder / name).exists():
        return folder
    if (found := remote.fetch(folder.name, f"{packed.split}-{OBJECTS}", folder)) is None:
        return None
    objects = read_checksummed_json(found)
    path = remote.fetch(objects["workspace"], objects["names"][name], folder)
    if path is not None:
        link_or_copy(path, folder / name)
        path.unlink()
    return None if path is None else folder


def _fetch_finished(jobs: Sequence[PackJob], remote: RemoteStore) -> dict[str, PackResult]:
    """Bring the shards that were packed before to this machine; return their results by name."""
    there = set(remote.names(jobs[0].path.parent.name))
    finished = {}
    for job in jobs:
        if {job.path.name, job.path.with_suffix(".json").name} <= there:
            _fetch(job, remote)
            if (found := load_finished(job.path)) is not None:
                finished[job.path.name] = found
    return finished


def _fetch(job: PackJob, remote: RemoteStore) -> None:
    for path in (job.path, job.path.with_suffix(".json")):
        remote.fetch(path.parent.name, path.name, path.parent)


def _has_relative_paths(value: Any) -> bool:
    """Return whether parameters hold a path that counts from the working directory."""
    if isinstance(value, BaseModel):
        return any(_has_relative_paths(getattr(value, name)) for name in type(value).model_fields)
    if isinstance(value, Mapping):
        return any(map(_has_relative_paths, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_relative_paths, value))
    return isinstance(value, Path) and not value.is_absolute()
