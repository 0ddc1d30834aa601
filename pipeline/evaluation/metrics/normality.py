"""Tests of whether whitened embeddings are Gaussian: rejection rates, a matched null, effect sizes.

A mean statistic below its critical value is weak evidence: t-distributed rows with 20 degrees of freedom pass every
time. The results are therefore the rejection rate of single tests, next to the 5 % for truly Gaussian rows put through
the same pipeline, and effect sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables

CRITICAL_AD = 0.752
"""Critical value of A* at 5 % with estimated mean and variance (Stephens, 1986)."""
LEVEL = 0.05
PROJECTIONS = 64
"""Random directions tested in addition to the coordinates, which depend on the transform."""


@dataclass(frozen=True)
class GroupTests:
    """Anderson–Darling and D'Agostino–Pearson statistics of each group of rows and each dimension."""

    ad: Float[np.ndarray, "g d"]
    """A*, with a critical value of 0.752."""
    p: Float[np.ndarray, "g d"]
    """p-value of K² = Z(√b₁)² + Z(b₂)² ~ χ²₂."""

    @property
    def ad_rejected(self) -> float:
        """Fraction of tests that reject at 5 %."""
        return float(np.mean(self.ad > CRITICAL_AD))

    @property
    def k2_rejected(self) -> float:
        """Fraction of tests that reject at 5 %."""
        return float(np.mean(self.p < LEVEL))

    @property
    def fdr_rejected(self) -> float:
        """Fraction of K² tests rejected at a false discovery rate of 5 % (Benjamini & Hochberg, 1995)."""
        p = np.sort(self.p, axis=None)
        passing = np.flatnonzero(p <= LEVEL * np.arange(1, p.size + 1) / p.size)
        return float((passing[-1] + 1) / p.size) if passing.size else 0.0

    @property
    def group_means_pass(self) -> float:
        """Fraction of dimensions whose mean A* over groups is below the critical value: W-CLIP's rule, of low power."""
        return float(np.mean(self.ad.mean(axis=0) < CRITICAL_AD))


def group_tests(rows: Float[np.ndarray, "n d"], group_rows: int = 250) -> GroupTests:
    """Test each dimension within groups of consecutive rows; an incomplete last group is dropped."""
    from scipy.stats import normaltest

    size = min(group_rows, len(rows))
    groups = rows[: len(rows) // size * size].astype(np.float64).reshape(-1, size, rows.shape[1])
    return GroupTests(anderson_darling(groups), normaltest(groups, axis=1).pvalue)


def anderson_darling(groups: Float[np.ndarray, "g n d"]) -> Float[np.ndarray, "g d"]:
    """Return A*, the Anderson–Darling statistic corrected for estimated mean and variance.

    A² = −n − (1/n) Σ (2i − 1)[ln Φ(z_i) + ln(1 − Φ(z_{n+1−i}))], A* = A²(1 + 0.75/n + 2.25/n²).
    """
    n = groups.shape[1]
    centered = groups - groups.mean(axis=1, keepdims=True)
    ordered = np.sort(centered / groups.std(axis=1, ddof=1, keepdims=True), axis=1)
    # Φ does not reach 0 or 1 in float64 below eight deviations; beyond, one ulp keeps the logarithm finite.
    below = np.clip(ndtr(ordered), np.finfo(np.float64).tiny, None)
    above = np.clip(ndtr(-ordered[:, ::-1]), np.finfo(np.float64).tiny, None)
    weights = (2 * np.arange(1, n + 1) - 1)[None, :, None]
    squared = -n - np.sum(weights * (np.log(below) + np.log(above)), axis=1) / n
    corrected: Float[np.ndarray, "g d"] = squared * (1 + 0.75 / n + 2.25 / n**2)
    return corrected


def normality_summary(rows: Float[np.ndarray, "n d"], seed: int, group_rows: int = 250) -> dict[str, Any]:
    """Return rejection rates along the coordinates and along random directions, and effect sizes over all rows."""
    tests = group_tests(rows, group_rows)
    directions = np.random.default_rng(seed).normal(size=(rows.shape[1], PROJECTIONS))
    projected = group_tests(rows @ (directions / np.linalg.norm(directions, axis=0)), group_rows)
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    skew, kurtosis = (standard**3).mean(axis=0), (standard**4).mean(axis=0) - 3
    return {
        "groups": len(tests.ad),
        "group_rows": min(group_rows, len(rows)),
        "nominal": LEVEL,
        "ad_rejected": tests.ad_rejected,
        "k2_rejected": tests.k2_rejected,
        "fdr_rejected": tests.fdr_rejected,
        "ad_rejected_projections": projected.ad_rejected,
        "group_means_pass": tests.group_means_pass,
        "skew": _quantiles(np.abs(skew)),
        "excess_kurtosis": _quantiles(kurtosis),
    }


def gaussian_null(
    covariance: Float[np.ndarray, "d d"], forward: Float[np.ndarray, "d k"], n: int, seed: int
) -> Float[np.ndarray, "n k"]:
    """Return centered Gaussian rows with a given covariance, put through the same transform: the matched null."""
    values, vectors = np.linalg.eigh(covariance)
    draws = np.random.default_rng(seed).normal(size=(n, len(values)))
    rows: Float[np.ndarray, "n k"] = (draws * np.sqrt(np.maximum(values, 0))) @ vectors.T @ forward
    return rows


def _quantiles(values: Float[np.ndarray, " d"]) -> dict[str, float]:
    return {f"q{q:02d}": float(np.quantile(values, q / 100)) for q in (5, 50, 95)}


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Test whitened rows of val, and Gaussian rows put through the same transform."""
    val, params, space = inputs.val, inputs.params, inputs.spaces["whitened"]
    null = gaussian_null(inputs.moments.image.covariance, space.image.forward, len(val.teacher), params.seed)
    rows = {"teacher": space.to_target(val.teacher), "student": space.to_target(val.student), "gaussian": null}
    if val.has_whole_texts and space.text:
        rows["texts"] = space.to_target(val.store.text().load(), "text")
    return {
        "val": {name: normality_summary(each, params.seed, params.normality_group_rows) for name, each in rows.items()}
    }, {}
