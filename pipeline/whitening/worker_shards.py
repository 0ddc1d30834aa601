"""Shards of embeddings on workers of a cluster: read from the worker's own store, or fetched from object storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

from cache.errors import CacheError
from cache.manifest import ShardRecord
from cache.shard import read_shard
from cache.work_store import WorkStore
from pipeline.project.cluster import WorkerEnvironment, worker_label
from pipeline.project.errors import WorkerMismatchError
from pipeline.project.layout import Layout
from pipeline.project.remote.store import RemoteStore

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerShards:
    """The shards of a project whose `--root` counts from the working directory of each worker."""

    layout: Layout
    remote: RemoteStore

    def read(self, name: str, kind: type[Any], fingerprint: str, record: ShardRecord, *, hashed: bool) -> Any:
        """Return one shard of a workspace as the driver's manifest records it.

        Raises:
            WorkerMismatchError: neither the worker's store nor object storage has it.
        """
        workspace = WorkStore(self.layout.store).workspace("embed", fingerprint).resolve()
        try:
            return read_shard(workspace / name, kind, fingerprint, record, hashed=hashed)
        except CacheError:
            self.remote.fetch(workspace.name, name, workspace)
        try:
            return read_shard(workspace / name, kind, fingerprint, record, hashed=hashed)
        except CacheError as error:
            raise WorkerMismatchError(
                f"{worker_label()}: neither its store nor {self.remote.root}/{workspace.name} has {name} as the "
                f"driver's manifest records it: {error} Run `embed` with runtime.remote there, which puts its shards."
            ) from None


def run_on_worker(environment: WorkerEnvironment, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a task with one BLAS thread; raises WorkerMismatchError on a worker of another environment.

    The order of the additions within a product depends on the number of BLAS threads, and so do its last bits.
    """
    environment.require_here()
    _limit_blas()
    return function(*args, **kwargs)


@cache
def _limit_blas() -> None:
    """Limit BLAS to one thread for as long as the worker lives: other tasks may compute when this one ends."""
    threadpool_limits(1, "blas")
