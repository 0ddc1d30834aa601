"""Paired statistics over few seeds: intervals, tests and power.

Arms share their seeds (initial weights, batches, views), so every statistic is of differences within a seed. With five
seeds the exact sign test cannot go below p = 1/16. The tests therefore use Student's t, and an interval that is not of
a mean of normal numbers is never narrower than the bootstrap's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import brentq

RESAMPLES = 4000
"""Bootstrap resamples: the 2.5 % quantile of 4000 is based on 100 of them."""
QUANTILES = 2000
"""Points of the average over s: power with three digits."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided confidence interval and p-value of `no difference`."""

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def paired_t_interval(differences: Float[np.ndarray, " n"], level: float = 0.95) -> Interval:
    """Return the mean of paired differences with Student's interval: d̄ ± t s/√n.

    For one pair the variance is unknown: the interval is the whole line and p is 1.
    """
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return Interval(mean, -np.inf, np.inf, 1.0, n)
    error = _error(differences)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(mean, mean - half, mean + half, min(1.0, 2 * _tail(abs(mean), error, n)), n)


def bootstrap_interval(differences: Float[np.ndarray, " n"], level: float = 0.95, seed: int = 0) -> Interval:
    """Return the wider, at either end, of Student's interval and the percentile bootstrap's.

    The percentile interval of five numbers covers about 85 % instead of 95 %, because it cannot leave the range of the
    data; Student's interval is wrong for skewed data. Their union is conservative.
    """
    student = paired_t_interval(differences, level)
    if len(differences) < 2:
        return student
    picks = np.random.default_rng(seed).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return replace(student, low=min(student.low, float(low)), high=max(student.high, float(high)))


def tost_p_value(differences: Float[np.ndarray, " n"], margin: float) -> float:
    """Return the p-value of `they differ by at least the margin`, by two one-sided t-tests (Schuirmann, 1987)."""
    n = len(differences)
    if n < 2:
        return 1.0
    mean, error = float(np.mean(differences)), _error(differences)
    return max(_tail(margin - mean, error, n), _tail(mean + margin, error, n))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, step-down (Holm, 1979): p'₍ᵢ₎ = max_{j≤i} (m − j + 1) p₍ⱼ₎."""
    order = np.argsort(p, kind="stable")
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def power(effect: float, sd: float, pairs: int, alpha: float = 0.05) -> float:
    """Return the probability that the two-sided paired t-test detects an effect.

    With s² ~ χ²_{n−1}/(n − 1) and δ = √n effect/sd, power = E_s[P(|Z + δ| > t_{1−α/2} s)], averaged over quantiles of
    s, because scipy's noncentral t fails for few pairs and large effects.
    """
    if pairs < 2:
        return 0.0
    s = np.sqrt(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, pairs - 1) / (pairs - 1))
    edge, shift = stats.t.ppf(1 - alpha / 2, pairs - 1) * s, np.sqrt(pairs) * effect / sd
    return float(np.mean(stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)))


def detectable(sd: float, pairs: int, target_power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest effect that is detected with the given probability; infinite for a single pair."""
    if pairs < 2:
        return float("inf")
    if sd == 0:
        return 0.0
    high = sd
    while power(high, sd, pairs, alpha) < target_power:
        high *= 2
    return float(brentq(lambda effect: power(effect, sd, pairs, alpha) - target_power, 1e-9 * sd, high))


def _error(differences: Float[np.ndarray, " n"]) -> float:
    return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _tail(distance: float, error: float, n: int) -> float:
    """Return P(T > distance/error); with zero variance, the sign decides."""
    if error == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(stats.t.sf(distance / error, n - 1))
