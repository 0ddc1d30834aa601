"""How likely an embedding is under the Gaussian of its modality, and whether lengths follow the law they should.

W-CLIP reads the whitened norm as a log-likelihood. Its constant and log-determinant are kept here, so that
values of different fits compare, and every number is of rows that the Gaussian was not fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.whitening.comoments import Moments
from pipeline.whitening.sample_size import is_well_sampled


@dataclass(frozen=True)
class Gaussian:
    """The Gaussian of the axes above the floor: N(μ, V Λ Vᵀ) fitted on n rows."""

    mean: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d k"]
    values: Float[np.ndarray, " k"]
    rows: int

    @property
    def has_radial_law(self) -> bool:
        """Return whether lengths of new rows follow Hotelling's law: enough rows, or every axis kept."""
        k, d = len(self.values), len(self.mean)
        return self.rows > k + 2 and (k == d or is_well_sampled(self.rows, d))

    def squared_radius(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Return ‖y‖² = Σ ((x − μ)·v_k)²/λ_k."""
        along = (x.astype(np.float64) - self.mean) @ self.vectors
        radius: Float[np.ndarray, " n"] = np.sum(along**2 / self.values, axis=1)
        return radius

    def log_likelihood(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Return ln p(x) = −½(k ln 2π + ‖y‖²) − ½ Σ ln λ, the density of x and not that of y."""
        constant = len(self.values) * np.log(2 * np.pi) + np.log(self.values).sum()
        log: Float[np.ndarray, " n"] = -0.5 * (constant + self.squared_radius(x))
        return log


def fit_gaussian(moments: Moments, floor: float) -> Gaussian:
    """Return the Gaussian of some moments on the axes above `floor` times the mean eigenvalue."""
    values, vectors = np.linalg.eigh(moments.covariance)
    kept = values > max(floor * values.mean(), np.finfo(np.float64).eps * values[-1])
    return Gaussian(moments.mean, vectors[:, kept][:, ::-1], values[kept][::-1], moments.count)


def radial_fit(gaussian: Gaussian, x: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Hold the lengths of held-out rows against their law under normality.

    With the covariance estimated from n rows, ‖y‖² n(n − k)/((n² − 1)k) ~ F(k, n − k) (Hotelling), so
    E‖y‖²/k = (n − 1)(n + 1)/(n(n − k − 2)), above one without anything being wrong. `ks` is the largest
    distance of the two distribution functions; `radius_sd` of a Gaussian is about √½; `mardia` is
    E‖y‖⁴/(k(k + 2)), one for a Gaussian with known covariance.

    The law is exact for each row where no axis was cut. Axes that a floor chose by their eigenvalues are those that
    these n rows overrate, so with fewer than ten rows a dimension there is no law for them, and no `expected_over_k`
    and `ks`. All lengths share one fit: with so few rows `p` would reject truly Gaussian ones (a third of the time at
    two rows a dimension), and is not given.
    """
    from scipy.stats import kstest

    k, n, square = len(gaussian.values), gaussian.rows, gaussian.squared_radius(x)
    found = {
        "axes": float(k),
        "mean_over_k": float(square.mean() / k),
        "radius_sd": float(np.sqrt(square).std()),
        "mardia": float(np.mean(square**2) / (k * (k + 2))),
    }
    if not gaussian.has_radial_law:
        return found
    statistic, p = kstest(square * n * (n - k) / ((n**2 - 1) * k), "f", args=(k, n - k))
    found |= {"expected_over_k": (n - 1) * (n + 1) / (n * (n - k - 2)), "ks": float(statistic)}
    return {**found, "p": float(p)} if is_well_sampled(n, len(gaussian.mean)) else found


def radius_quantiles(gaussian: Gaussian, x: Float[np.ndarray, "n d"], points: int = 99) -> Float[np.ndarray, "q 3"]:
    """Return (probability, observed radius, expected radius) at evenly spaced probabilities: a QQ plot."""
    from scipy.stats import f

    k, n = len(gaussian.values), gaussian.rows
    probability = np.arange(1, points + 1) / (points + 1)
    observed = np.quantile(np.sqrt(gaussian.squared_radius(x)), probability)
    if not gaussian.has_radial_law:
        return np.stack([probability, observed, np.full(points, np.nan)], axis=1)
    expected = np.sqrt(f.ppf(probability, k, n - k) * (n**2 - 1) * k / (n * (n - k)))
    return np.stack([probability, observed, expected], axis=1)
