"""Run trials one after another, or several at a time in separate processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from pipeline.comparison.leave_one_out import LeaveOneOutRunner
from pipeline.comparison.params import ComparisonSetup
from pipeline.comparison.run_store import RunStore
from pipeline.comparison.runner import Trial, TrialRunner
from pipeline.project.errors import PipelineError
from pipeline.project.worker_processes import holding_interrupts, start_worker

Runner = TrialRunner | LeaveOneOutRunner
RunAll = Callable[[Iterable[Trial]], Iterator[Trial]]
"""Runs trials and saves the results; yields each finished one."""


@contextmanager
def trial_pool(opened: ComparisonSetup, runner: Runner, runs: RunStore, jobs: int) -> Iterator[RunAll]:
    """Return a function that runs trials: in this process, or `jobs` at a time in processes with one thread each.

    The bytes of a trial depend on the number of threads, so the two modes may differ in the last digit.
    """
    if jobs == 1:
        yield lambda trials: (run_one(runner, runs, trial) for trial in trials)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _open, (opened, runs)) as processes:
        try:
            yield lambda trials: _start_trials(processes, trials)
        except BrokenProcessPool:
            raise PipelineError(
                f"compare: one of {jobs} processes ended without a word, as when memory runs out. "
                "Run it again with fewer --jobs: finished runs are kept."
            ) from None


def _start_trials(processes: ProcessPoolExecutor, trials: Iterable[Trial]) -> Iterator[Trial]:
    with holding_interrupts():
        return processes.map(_run, trials)


def run_one(runner: Runner, runs: RunStore, trial: Trial) -> Trial:
    """Run a trial, resuming an interrupted one, and save it."""
    path = runs.path(trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.save(trial, runner.run(trial, runs.resume_path(trial)))
    return trial


_here: dict[str, tuple[Runner, RunStore]] = {}
"""Inputs that a worker process opened at its start."""


def _open(opened: ComparisonSetup, runs: RunStore) -> None:
    start_worker()
    torch.set_num_threads(1)
    _here["all"] = opened.open(), runs


def _run(trial: Trial) -> Trial:
    return run_one(*_here["all"], trial)
