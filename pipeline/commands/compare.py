"""Compare target spaces: plan arms, learning rates and seeds, run them, and write a verdict from the intervals."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache.fingerprint import fingerprint
from cache.teachers import JOINT
from cache.work_store import WorkStore
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.domain_results import DomainResults
from pipeline.comparison.leave_one_out import LeaveOneOutRunner
from pipeline.comparison.params import CompareParams, ComparisonSetup, apply_overrides
from pipeline.comparison.pool import RunAll, trial_pool
from pipeline.comparison.results import ComparisonResults
from pipeline.comparison.run_store import TUNING_SEED, RunSchedule, RunStore
from pipeline.comparison.runner import Trial
from pipeline.comparison.schedule import ExperimentPlan, make_plan
from pipeline.project.errors import UsageError
from pipeline.project.project import Project
from pipeline.reporting.comparison.domains import write_domain_results
from pipeline.reporting.comparison.summary import write_results

ASSUMED_SD = 0.042
"""Standard deviation of paired differences assumed for power before any is measured: 4.2 points."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def compare(
    project: Project,
    *,
    student: str | None = None,
    targets: Sequence[str] | None = None,
    seeds: int | None = None,
    budget: str | None = None,
    jobs: int = 1,
    out: Path | None = None,
) -> Path:
    """Train every arm with the same seeds at its own best learning rate, and write tables, plots and a verdict.

    Each finished run is one file under runs/compare/<fingerprint>/. If the command is repeated, also with more seeds,
    arms or budgets, only missing runs are made. Results go to `out`, by default next to the runs.

    Raises:
        UsageError: unknown arms, no zero-shot set, or an invalid budget.
        CacheError: something is not embedded yet, damaged or stale.
        LockedError: the same comparison is running.
    """
    limit = None if budget is None else parse_duration(budget)
    params = apply_overrides(project.section("compare", CompareParams, default={}), student, targets, seeds)
    setup = ComparisonSetup(params, project)
    runner = setup.open()
    folder = project.layout.comparisons / fingerprint(runner.facts())
    runs = RunStore(folder, runner.arm_fingerprints)
    with WorkStore(project.layout.store).lock("compare", folder.name), trial_pool(setup, runner, runs, jobs) as run_all:
        schedule = _planned(params, runs, run_all, limit, jobs)
        while missing := schedule.missing(runs.read()):
            for done, trial in enumerate(run_all(missing), start=1):
                log(f"compare: {format_trial(trial)}: {done}/{len(missing)} of this round")
    if isinstance(runner, LeaveOneOutRunner):
        results = DomainResults(params, schedule.seeds, runner.folds, runner.teacher(), runs.read())
        return write_domain_results(results, out or folder / "result")
    truly_paired = tuple(name for name, arm in runner.arms.items() if arm.params.control != "shuffled-pairs")
    evaluator, others = runner.first.evaluator, runner.others
    comparison = ComparisonResults(
        params,
        schedule.seeds,
        evaluator.ceilings(),
        evaluator.chance_scores(),
        runs.read(),
        truly_paired,
        {name: JOINT.join(runner.arms[name].params.target.teachers) for name in others},
        {name: inputs.evaluator.ceilings() for name, inputs in others.items()},
    )
    return write_results(comparison, out or folder / "result")


def format_trial(trial: Trial) -> str:
    """Return the description of a trial."""
    without = f", without {trial.held_out}" if trial.held_out else ""
    return f"{trial.arm}{without}, {trial.epochs} epochs, rate {trial.rate:g}, seed {trial.seed}"


def parse_duration(budget: str) -> float:
    """Return the seconds of `90s`, `60m` or `1.5h`; raises UsageError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if match is None:
        raise UsageError(f"--budget {budget}: expected a time such as 90s, 60m or 2h")
    return float(match[1]) * UNITS[match[2]]


def log(line: str) -> None:
    """Print progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def _planned(params: CompareParams, runs: RunStore, run_all: RunAll, limit: float | None, jobs: int) -> RunSchedule:
    """Return the runs to make; with a time limit, after one run has measured the time of an epoch."""
    schedule = RunSchedule(
        params.targets,
        sorted(params.epochs),
        params.learning_rates,
        params.seeds,
        params.rate_selection_metric,
        params.leave_out,
    )
    if limit is None:
        return schedule
    if not (done := runs.read()):
        list(run_all(schedule.missing([])[:1]))
        done = runs.read()
    epoch = statistics.median(run.seconds / run.epochs for run in done) / jobs
    arms = len(schedule.arms) * max(1, len(schedule.folds))
    plan = make_plan(arms, schedule.epochs, schedule.rates, schedule.seeds, epoch_seconds=epoch, limit=limit)
    log(format_plan(plan, limit, params, done))
    return replace(schedule, rates=plan.rates, seeds=plan.seeds)


def format_plan(plan: ExperimentPlan, limit: float, params: CompareParams, done: Sequence[RunResult]) -> str:
    """Return a sentence about a plan, with its statistical power."""
    fits = "" if plan.seconds <= limit else f", above the limit of {limit / 60:.0f} min, and no smaller plan exists"
    counted = sum(run.seed != TUNING_SEED for run in done)
    return (
        f"plan: {len(params.targets)} arms, {len(params.epochs)} budgets, {len(plan.rates)} rates, {plan.seeds} seeds: "
        f"{plan.runs} runs, {plan.seconds / 60:.0f} min{fits}; {counted} of the seeds' runs are done. "
        f"Where paired differences spread by {100 * ASSUMED_SD:.1f} points, one of "
        f"{100 * plan.minimum_detectable_effect(ASSUMED_SD):.1f} is seen 4 times in 5."
    )
