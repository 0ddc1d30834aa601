"""Eigenvalues of a covariance: decomposition, shrinkage and flooring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from pipeline.whitening.comoments import Moments

FLOAT32_EIGENVALUE_EPS = 1e-13
"""Eigenvalues below this fraction of the largest, 2⁻⁴⁸/3, are rounding errors of float32 rows, not variance."""
Shrinkage = Literal["none", "ledoit-wolf", "oas"]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, largest first, and the eigenvectors as columns: Σ = V Λ Vᵀ."""

    values: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d d"]

    def with_eigenvalues(self, values: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
        """Return V diag(values) Vᵀ."""
        product: np.ndarray = (self.vectors * values) @ self.vectors.T
        return product


def eigendecompose(covariance: Float[np.ndarray, "d d"]) -> Spectrum:
    """Return the spectrum of a symmetric matrix by float64 `eigh`.

    The general `eig` gives complex pairs for nearly equal eigenvalues, and their real parts are duplicate columns. The
    largest entry of each eigenvector is made positive, so that signs are reproducible.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)[0]
    return Spectrum(values.copy(), vectors * np.where(largest < 0, -1.0, 1.0))


def shrinkage_weight(moments: Moments, shrinkage: Shrinkage | float) -> float:
    """Return α of Σ_α = (1 − α) Σ + α (tr Σ/d) I."""
    if isinstance(shrinkage, str):
        return {"none": lambda _: 0.0, "ledoit-wolf": ledoit_wolf, "oas": oas}[shrinkage](moments)
    return float(shrinkage)


def ledoit_wolf(moments: Moments) -> float:
    """Return the weight that minimizes E‖Σ_α − Σ‖² without assuming a distribution.

    With S = scatter/n, μ = tr S/d (Ledoit & Wolf, 2004): δ² = ‖S − μI‖²/d, β² = (Σ‖x‖⁴/n − ‖S‖²)/(dn),
    α = min(β², δ²)/δ².
    """
    n, d = moments.count, len(moments.mean)
    s = moments.scatter / n
    mean = np.trace(s) / d
    distance = float(np.sum((s - mean * np.eye(d)) ** 2)) / d
    spread = (moments.quartic / n - float(np.sum(s**2))) / (d * n)
    return min(max(spread, 0.0), distance) / distance if distance > 0 else 0.0


def oas(moments: Moments) -> float:
    """Return the oracle-approximating weight, which assumes normal rows (Chen, Wiesel, Eldar & Hero, 2010).

    With a = mean(S²), μ = tr S/d: α = min(1, (a + μ²)/((n + 1)(a − μ²/d))), without the paper's 2/d terms, as in
    scikit-learn.
    """
    n, d = moments.count, len(moments.mean)
    s = moments.scatter / n
    mean = np.trace(s) / d
    power = float(np.mean(s**2))
    below = (n + 1) * (power - mean**2 / d)
    return 1.0 if below <= 0 else float(min((power + mean**2) / below, 1.0))


def shrink_covariance(covariance: Float[np.ndarray, "d d"], weight: float) -> Float[np.ndarray, "d d"]:
    """Return (1 − α) Σ + α (tr Σ/d) I."""
    d = len(covariance)
    sphere: np.ndarray = np.trace(covariance) / d * np.eye(d)
    return (1 - weight) * covariance + weight * sphere


def floor_eigenvalues(
    values: Float[np.ndarray, " d"], floor: float, eps: float = 0.0
) -> tuple[Float[np.ndarray, " d"], int]:
    """Return max(λ + eps, floor · λ̄), and the number of eigenvalues raised by the floor.

    The floor is relative to the mean eigenvalue λ̄, which differs by a factor of a hundred between raw and unit
    embeddings; `eps` is absolute, for published recipes.
    """
    lowest = floor * float(values.mean())
    raised = values + eps
    return np.maximum(raised, lowest), int(np.count_nonzero(raised < lowest))
