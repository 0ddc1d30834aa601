"""Plan the runs of a comparison: search of learning rates, and a plan within a time limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.comparison.statistics import detectable

STEP = 3.0
"""Factor between neighboring learning rates."""
EXTENSIONS = 3
"""Rates added beyond either edge before the search stops: a factor of 27."""
FEWEST_RATES = 3
"""An interior optimum needs a neighbor on either side."""
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class ExperimentPlan:
    """Number of runs, their cost, and their statistical power."""

    seeds: int
    rates: tuple[float, ...]
    runs: int
    seconds: float

    def minimum_detectable_effect(self, sd: float) -> float:
        """Return the paired difference that is detected four times in five, for a standard deviation."""
        return detectable(sd, self.seeds)


def next_rate(scores: Mapping[float, float], grid: Sequence[float]) -> float | None:
    """Return the rate to try next: first the grid, then beyond the edge at which the best one is.

    None when the best rate has a neighbor on either side, or the search has gone far enough. A diverged rate has the
    score −∞ and counts as a neighbor.
    """
    for rate in grid:
        if rate not in scores:
            return rate
    tried = sorted(scores)
    best = max(tried, key=lambda rate: scores[rate])
    if best == tried[-1] and best < max(grid) * STEP**EXTENSIONS * 0.99:
        return round_rate(best * STEP)
    if best == tried[0] and best > min(grid) / STEP**EXTENSIONS * 1.01:
        return round_rate(best / STEP)
    return None


def round_rate(rate: float) -> float:
    """Return a rate rounded to three digits, so that it has a unique name."""
    return float(f"{rate:.3g}")


def make_plan(
    arms: int, epochs: Sequence[float], rates: Sequence[float], seeds: int, *, epoch_seconds: float, limit: float | None
) -> ExperimentPlan:
    """Return the largest plan within a time limit: first fewer rates, then fewer seeds.

    The middle of the grid is kept. Without a limit, the whole plan; with too small a limit, the smallest one: compare
    its seconds with the limit.
    """
    counts = [(s, r) for s in range(seeds, FEWEST_SEEDS - 1, -1) for r in range(len(rates), FEWEST_RATES - 1, -1)]
    plans = [_plan(arms, epochs, _middle(rates, r), s, epoch_seconds) for s, r in counts or [(seeds, len(rates))]]
    fitting = [plan for plan in plans if limit is None or plan.seconds <= limit]
    return fitting[0] if fitting else plans[-1]


def _plan(
    arms: int, epochs: Sequence[float], rates: Sequence[float], seeds: int, epoch_seconds: float
) -> ExperimentPlan:
    each = seeds if len(rates) == 1 else len(rates) + seeds
    return ExperimentPlan(seeds, tuple(rates), arms * len(epochs) * each, arms * sum(epochs) * each * epoch_seconds)


def _middle(rates: Sequence[float], count: int) -> Sequence[float]:
    first = (len(rates) - count) // 2
    return sorted(rates)[first : first + count]
