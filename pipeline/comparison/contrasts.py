"""Contrasts of arms with a reference, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.comparison.convergence import SpeedUp, mean_height, speed_up, time_to_level
from pipeline.comparison.statistics import Interval, bootstrap_interval, holm, paired_t_interval, tost_p_value

FINAL_EVALUATIONS = 5
"""Number of last evaluations whose mean is the final accuracy; a single one is as noisy as the seeds."""


LATE = ("held_out", "predicted")
"""Fields that are omitted from files if unused, so that files of earlier comparisons do not change."""


@dataclass(frozen=True)
class RunResult:
    """One trained student, with its measurements during and after training."""

    arm: str
    seed: int
    learning_rate: float
    epochs: float
    steps: tuple[float, ...]
    curves: dict[str, tuple[float, ...]]
    """By name of metric, one value per step in `steps`, on the fixed subset."""
    final: dict[str, float]
    """By name of metric, on all rows."""
    start: dict[str, float]
    """Before the first step: initial error, and gradient norm at the output of the trunk."""
    seconds: float
    held_out: str | None = None
    """The held-out domain, in a comparison over domains."""
    predicted: tuple[int, ...] = ()
    """Final prediction for each image of the held-out domain."""

    @property
    def unit(self) -> tuple[int, str | None]:
        """Return the unit of pairing: the seed, and the held-out domain."""
        return self.seed, self.held_out

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RunResult:
        """Return the run that `asdict` wrote to JSON."""
        curves = {name: tuple(curve) for name, curve in value["curves"].items()}
        lists: dict[str, tuple[Any, ...]] = {
            name: tuple(value[name]) for name in ("steps", "predicted") if name in value
        }
        return cls(**{**value, **lists, "curves": curves})

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON-serializable values."""
        return {name: value for name, value in asdict(self).items() if name not in LATE or value}


@dataclass(frozen=True)
class ContrastSpec:
    """Parameters of the statistical comparison, fixed before the first run."""

    reference: str
    metric: str
    chance: float
    level_fraction: float = 0.8
    """Level of the speed comparison, as a fraction of the way from chance to the reference's final accuracy.

    At 1, half of the reference's own runs never reach it: in simulations with five seeds, a true 2× was detected 3
    times in 10
    and estimated as 1.5×; at 0.8 always, and as 2.0×.
    """
    margin: float = 0.01
    """Final accuracies that differ by less are equivalent."""


@dataclass(frozen=True)
class Contrast:
    """An arm against a reference at one budget under one metric; p-values are Holm-corrected over the arms."""

    arm: str
    reference: str
    epochs: float
    metric: str
    level: float
    """Accuracy whose time is compared."""
    speed: SpeedUp
    area: Interval
    final: Interval
    equivalence_p: float
    """p-value of `the final accuracies differ by at least the margin`."""
    paired_sd: float
    """Standard deviation of the paired final differences."""


@dataclass(frozen=True)
class EndContrast:
    """Final difference of an arm from a reference in one metric; p-values are Holm-corrected over the arms."""

    arm: str
    reference: str
    metric: str
    final: Interval
    equivalence_p: float
    paired_sd: float


def end_contrasts(runs: Sequence[RunResult], reference: str, metric: str, margin: float) -> list[EndContrast]:
    """Compare the final values of every arm with a reference's, paired by seed and held-out domain."""
    ends = {(run.arm, *run.unit): run.final[metric] for run in runs}
    contrasts = []
    for arm in sorted({run.arm for run in runs} - {reference}):
        units = [unit for name, *unit in ends if name == reference and (arm, *unit) in ends]
        gaps = np.array([ends[arm, *unit] - ends[reference, *unit] for unit in units])  # type: ignore[index]
        if len(gaps):
            spread = float(np.std(gaps, ddof=1)) if len(gaps) > 1 else float("nan")
            end = paired_t_interval(gaps)
            contrasts.append(EndContrast(arm, reference, metric, end, tost_p_value(gaps, margin), spread))
    differ, equal = (holm(p) for p in ([c.final.p for c in contrasts], [c.equivalence_p for c in contrasts]))
    return [
        replace(c, final=replace(c.final, p=p), equivalence_p=e)
        for c, p, e in zip(contrasts, differ, equal, strict=True)
    ]


def best_learning_rates(runs: Sequence[RunResult], metric: str, seed: int) -> dict[tuple[str, float], float]:
    """Return the best learning rate of each (arm, epochs) on the tuning seed."""
    best: dict[tuple[str, float], RunResult] = {}
    for run in (r for r in runs if r.seed == seed):
        key = run.arm, run.epochs
        if key not in best or run.final[metric] > best[key].final[metric]:
            best[key] = run
    return {key: run.learning_rate for key, run in best.items()}


def chosen_rates(
    runs: Sequence[RunResult], grid: Sequence[float], metric: str, seed: int
) -> dict[tuple[str, float], float]:
    """Return the learning rate of each (arm, epochs): the grid's only one, or the best on the tuning seed."""
    if len(grid) == 1:
        return {(run.arm, run.epochs): grid[0] for run in runs}
    return best_learning_rates(runs, metric, seed)


def scored_runs(runs: Sequence[RunResult], rates: dict[tuple[str, float], float], seed: int) -> list[RunResult]:
    """Return the runs at the chosen rates, without the tuning seed."""
    return [r for r in runs if r.seed != seed and rates.get((r.arm, r.epochs)) == r.learning_rate]


def contrasts(runs: Sequence[RunResult], epochs: float, question: ContrastSpec) -> list[Contrast]:
    """Compare every arm with the reference at one budget, paired by seed."""
    mine = {(r.arm, r.seed): r for r in runs if r.epochs == epochs}
    references = {seed: run for (arm, seed), run in mine.items() if arm == question.reference}
    level = _level(list(references.values()), question)
    arms = sorted({arm for arm, _ in mine} - {question.reference})
    pairs = {arm: [(run, mine[arm, s]) for s, run in sorted(references.items()) if (arm, s) in mine] for arm in arms}
    return _holm_adjusted([_contrast(p, question, level) for p in pairs.values() if p])


def _level(references: Sequence[RunResult], question: ContrastSpec) -> float:
    ends = [np.mean(run.curves[question.metric][-FINAL_EVALUATIONS:]) for run in references]
    return (
        question.chance + question.level_fraction * (float(np.mean(ends)) - question.chance)
        if ends
        else question.chance
    )


def _contrast(pairs: Sequence[tuple[RunResult, RunResult]], question: ContrastSpec, level: float) -> Contrast:
    metric, (_, arm) = question.metric, pairs[0]
    ends = np.array([b.final[metric] - a.final[metric] for a, b in pairs])
    areas = np.array([_area(b, metric) - _area(a, metric) for a, b in pairs])
    reference, mine = ([_time(pair[i], metric, level) for pair in pairs] for i in (0, 1))
    spread = float(np.std(ends, ddof=1)) if len(ends) > 1 else float("nan")
    return Contrast(
        arm.arm,
        question.reference,
        arm.epochs,
        metric,
        level,
        speed_up(reference, mine, arm.steps[-1]),
        bootstrap_interval(areas),
        paired_t_interval(ends),
        tost_p_value(ends, question.margin),
        spread,
    )


def _time(run: RunResult, metric: str, level: float) -> float | None:
    return time_to_level(np.array(run.steps), np.array(run.curves[metric]), level)


def _area(run: RunResult, metric: str) -> float:
    return mean_height(np.array(run.steps), np.array(run.curves[metric]))


def _holm_adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Return the contrasts with each kind of p-value corrected for the number of arms."""
    kinds = zip(*((c.speed.p, c.area.p, c.final.p, c.equivalence_p) for c in contrasts), strict=True)
    return [
        replace(c, speed=replace(c.speed, p=s), area=replace(c.area, p=a), final=replace(c.final, p=f), equivalence_p=e)
        for c, s, a, f, e in zip(contrasts, *map(holm, kinds), strict=True)
    ]
