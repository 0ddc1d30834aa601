"""Trials one after another, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from pipeline.comparing.bench import Opened
from pipeline.comparing.runs import Runs
from pipeline.comparing.trial import Bench, Trial
from pipeline.project.errors import PipelineError

RunAll = Callable[[Iterable[Trial]], Iterator[Trial]]
"""Run trials and keep what came out; yields each one that is finished."""


@contextmanager
def pool(opened: Opened, bench: Bench, runs: Runs, jobs: int) -> Iterator[RunAll]:
    """Make what runs trials: here, or `jobs` at a time in processes with one thread each.

    A trial's bytes are promised for one number of threads, so that jobs and no jobs may differ in the last digit.
    """
    if jobs == 1:
        yield lambda trials: (run_one(bench, runs, trial) for trial in trials)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _open, (opened, runs)) as processes:
        try:
            yield lambda trials: processes.map(_run, trials)
        except BrokenProcessPool:
            raise PipelineError(
                f"compare: one of {jobs} processes ended without a word, as when memory runs out. "
                "Run it again with fewer --jobs: finished runs are kept."
            ) from None


def run_one(bench: Bench, runs: Runs, trial: Trial) -> Trial:
    """Run a trial, from where it was stopped, and keep it."""
    path = runs.path(trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.keep(trial, bench.run(trial, runs.state(trial)))
    return trial


def follow_parent() -> None:
    """End this process as soon as its parent has ended: one that was killed can tell its workers nothing."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_here: dict[str, tuple[Bench, Runs]] = {}
"""What a worker process opened when it began."""


def _open(opened: Opened, runs: Runs) -> None:
    follow_parent()
    torch.set_num_threads(1)
    _here["all"] = opened.bench(), runs


def _run(trial: Trial) -> Trial:
    return run_one(*_here["all"], trial)
