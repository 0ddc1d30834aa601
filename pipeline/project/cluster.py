"""Tasks on a Dask cluster: the one door to `distributed`, and what a worker must have in common with its driver.

A task whose worker died is given to another worker by the scheduler, `distributed.scheduler.allowed-failures` times
(three, by default). A task that raises ends the run: what it raises would come again elsewhere, and a worker that fails
at once would take every task. No clock is read: neither a result nor a refusal depends on one.
"""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import CacheError
from pipeline.project.code_digest import code_digest
from pipeline.project.errors import PipelineError, UsageError, WorkerMismatchError

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")
CONNECT_SECONDS = 30


@dataclass(frozen=True)
class WorkerEnvironment:
    """What decides the bytes of a stage besides its inputs: code by units, versions of Python and of libraries."""

    python: str
    code: tuple[tuple[str, str], ...]
    libraries: tuple[tuple[str, str], ...]

    @classmethod
    def current(cls, units: Sequence[str], libraries: Sequence[str]) -> WorkerEnvironment:
        """Return that of this process."""
        code = tuple((unit, code_digest(unit)) for unit in units)
        return cls(platform.python_version(), code, tuple((name, version(name)) for name in libraries))

    def require_here(self) -> None:
        """Refuse to work on a worker that would compute something else; raises WorkerMismatchError."""
        here = self.current([unit for unit, _ in self.code], [name for name, _ in self.libraries])
        require_equal("python", here.python, self.python, "Start the worker with the same version.")
        for (unit, found), (_, expected) in zip(here.code, self.code, strict=True):
            require_equal(f"code of {unit}", found, expected, "Install the driver's version of this tool there.")
        for (name, found), (_, expected) in zip(here.libraries, self.libraries, strict=True):
            require_equal(name, found, expected, "Install the same version there.")


def require_equal(what: str, found: object, expected: object, advice: str) -> None:
    """Refuse a worker on which something differs from the driver's; raises WorkerMismatchError with both values."""
    if found != expected:
        raise WorkerMismatchError(f"{worker_label()}: {what} {found}, expected {expected} as at the driver. {advice}")


def require_folder(folder: Path) -> None:
    """Refuse a worker that should see a folder of the driver and does not; raises WorkerMismatchError."""
    if not folder.is_dir():
        raise WorkerMismatchError(
            f"{worker_label()}: does not see {folder} of the driver. Mount the same file system there, or set "
            "runtime.remote."
        )


def worker_label() -> str:
    """Return the name and the machine of the worker that runs this task."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # not in a task
        return f"process on {platform.node()}"
    return f"worker {worker.name} on {platform.node()}"


def map_tasks(address: str, function: Callable[[C, T], R], context: C, tasks: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Yield each task with its result, in the order in which they finish.

    `context`, what all tasks have in common, is sent to the cluster once, as a task that can be computed again: data
    that is scattered ends with the worker that holds it.

    Raises:
        PipelineError: no scheduler answers, it ends, or several workers died from the same task.
        UsageError: the address is none.
    """
    from distributed import as_completed

    with _connect(address) as client:
        shared = client.submit(_identity, context, pure=False)
        futures = client.map(partial(_run, function), tasks, context=shared, pure=False)
        task_by_future = dict(zip(futures, tasks, strict=True))
        for future in as_completed(futures, loop=client.loop):
            yield task_by_future[future], _result(future, address)


def compute_delayed(address: str, result: Any) -> Any:
    """Return the value of a delayed result; raises as `map_tasks` does."""
    with _connect(address) as client:
        return _result(client.compute(result), address)


def _identity(context: C) -> C:
    return context


def _run(function: Callable[[C, T], R], task: T, *, context: C) -> R:
    """Run a task, and let its errors begin with the worker's name: files that they name lie there."""
    try:
        return function(context, task)
    except WorkerMismatchError:
        raise
    except (PipelineError, CacheError) as error:
        raise PipelineError(f"{worker_label()}: {error}") from None


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    from distributed import Client

    failure: PipelineError | UsageError | None = None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        failure = PipelineError(
            f"params: 'runtime.scheduler': {address}: no Dask scheduler answers ({type(error).__name__}). Start one "
            "with `dask scheduler`, or leave the address out to compute here."
        )
    except ValueError as error:
        failure = UsageError(f"params: 'runtime.scheduler': {address}: {error}: expected tcp://host:8786")
    if failure is not None:
        gc.collect()  # closes the half-open client: collected while the next one starts, it would wait for it forever
        raise failure
    with client:
        if not client.scheduler_info(n_workers=0)["n_workers"]:
            print(f"{address}: no worker yet: tasks wait until one joins", file=sys.stderr, flush=True)
        yield client


def _result(future: Any, address: str) -> Any:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        return future.result()
    except KilledWorker as error:
        raise PipelineError(
            f"{address}: {error.allowed_failures + 1} workers ended while they held the same task, the last "
            f"{error.last_worker.address}: its log says why; it may lack memory. Run the same command again: what is "
            "finished is kept."
        ) from None
    except FutureCancelledError:
        raise PipelineError(
            f"{address}: the scheduler ended, or dropped a task. Run the same command again: what is finished is kept."
        ) from None
