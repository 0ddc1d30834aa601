"""Time to reach a level, and ratios of these times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.comparison.statistics import bootstrap_interval

SUSTAINED_EVALUATIONS = 4
"""Consecutive evaluations that must hold a level before it counts as reached, so that a single spike does not count."""


@dataclass(frozen=True)
class SpeedUp:
    """Geometric mean of T_reference/T_arm over seeds, with times censored at the budget."""

    ratio: float
    low: float
    high: float
    p: float
    pairs: int
    reference_reached: int
    arm_reached: int

    @property
    def bound(self) -> str:
        """Return `≥` if only runs of the reference were censored, `≤` if only those of the arm, `~` if both."""
        cut = (self.reference_reached < self.pairs, self.arm_reached < self.pairs)
        return {(False, False): "", (True, False): "≥", (False, True): "≤", (True, True): "~"}[cut]


def smoothed(values: Float[np.ndarray, " e"]) -> Float[np.ndarray, " e"]:
    """Return the mean over each evaluation and its two neighbors; the ends have one neighbor.

    Centered: a trailing average delays every curve by the same number of steps, which biases every ratio of times
    towards one.
    """
    return np.asarray(_neighbors(values) / _neighbors(np.ones(len(values))))


def time_to_level(steps: Float[np.ndarray, " e"], values: Float[np.ndarray, " e"], level: float) -> float | None:
    """Return the first step from which the smoothed curve holds a level for SUSTAINED_EVALUATIONS evaluations.

    The curve is interpolated linearly. None, a censored run, if it never does, or too late to show that it holds.
    """
    curve = smoothed(values)
    holds = np.flatnonzero(
        [(curve[i : i + SUSTAINED_EVALUATIONS] >= level).all() for i in range(len(curve) - SUSTAINED_EVALUATIONS + 1)]
    )
    if len(holds) == 0:
        return None
    first = int(holds[0])
    if first == 0:
        return float(steps[0])
    before, after = curve[first - 1], curve[first]
    share = (level - before) / (after - before) if after > level > before else 1.0
    return float(steps[first - 1] + share * (steps[first] - steps[first - 1]))


def _neighbors(values: Float[np.ndarray, " e"]) -> Float[np.ndarray, " e"]:
    padded = np.pad(values, 1)
    return np.asarray(padded[:-2] + padded[1:-1] + padded[2:])


def mean_height(steps: Float[np.ndarray, " e"], values: Float[np.ndarray, " e"]) -> float:
    """Return the mean of a curve over its steps, by the trapezoidal rule."""
    if len(steps) < 2:
        return float(values[-1])
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def speed_up(
    reference: Sequence[float | None], arm: Sequence[float | None], budget: float, level: float = 0.95
) -> SpeedUp:
    """Compare times to a level, paired by seed, on a logarithmic scale.

    A censored run counts as the whole budget. This time is too short, so a ratio with one censored side is biased
    towards one, and a seed with two counts as no difference.
    """
    times = np.array([[budget if t is None else t for t in side] for side in (reference, arm)], dtype=np.float64)
    interval = bootstrap_interval(np.log(times[0] / times[1]), level)
    ratio, low, high = (float(np.exp(x)) for x in (interval.mean, interval.low, interval.high))
    reached = [sum(t is not None for t in side) for side in (reference, arm)]
    return SpeedUp(ratio, low, high, interval.p, interval.pairs, *reached)
