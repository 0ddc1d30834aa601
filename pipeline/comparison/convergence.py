"""How soon a curve reaches a level, and how many times sooner another one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.comparison.statistics import bootstrap_interval

SUSTAINED_EVALUATIONS = 4
"""Evaluations in a row that must hold a level before it counts as reached: one more than a lone spike can lift."""


@dataclass(frozen=True)
class SpeedUp:
    """The geometric mean of T_reference/T_arm over seeds, both times cut at the budget's end."""

    ratio: float
    low: float
    high: float
    p: float
    pairs: int
    reference_reached: int
    arm_reached: int

    @property
    def bound(self) -> str:
        """Return `≥` where only the reference's runs were cut, `≤` where only the arm's, `~` where both were."""
        cut = (self.reference_reached < self.pairs, self.arm_reached < self.pairs)
        return {(False, False): "", (True, False): "≥", (False, True): "≤", (True, True): "~"}[cut]


def smoothed(values: Float[np.ndarray, " e"]) -> Float[np.ndarray, " e"]:
    """Return the mean over each evaluation and its two neighbours; the ends have one.

    Centred: a trailing average delays every curve by the same number of steps, which pulls every ratio of
    times towards one.
    """
    return np.asarray(_neighbors(values) / _neighbors(np.ones(len(values))))


def time_to_level(steps: Float[np.ndarray, " e"], values: Float[np.ndarray, " e"], level: float) -> float | None:
    """Return the first step from which the smoothed curve holds a level for `STAY` evaluations.

    Between evaluations the curve is taken as straight. None where it never does, or so late that it cannot
    be seen to hold: the run is censored.
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
    """Return the mean height of a curve over its steps, by trapezoids."""
    if len(steps) < 2:
        return float(values[-1])
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def speed_up(
    reference: Sequence[float | None], arm: Sequence[float | None], budget: float, level: float = 0.95
) -> SpeedUp:
    """Compare times to a level, seed by seed, on a logarithmic scale.

    A run that did not get there counts as the whole budget. That is a time too short, so a ratio with one
    censored side is nearer to one than the truth, and a seed with two says `no difference`.
    """
    times = np.array([[budget if t is None else t for t in side] for side in (reference, arm)], dtype=np.float64)
    found = bootstrap_interval(np.log(times[0] / times[1]), level)
    ratio, low, high = (float(np.exp(x)) for x in (found.mean, found.low, found.high))
    reached = [sum(t is not None for t in side) for side in (reference, arm)]
    return SpeedUp(ratio, low, high, found.p, found.pairs, *reached)
