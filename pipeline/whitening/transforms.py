"""Affine maps y = (x − μ) W and their analytic inverses, fitted from moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.whitening.comoments import Moments


@dataclass(frozen=True)
class AffineTransform:
    """One modality's map into a target space and back; rows are multiplied from the left."""

    mean: Float[np.ndarray, " d"]
    forward: Float[np.ndarray, "d k"]
    backward: Float[np.ndarray, "k d"]
    eigenvalues: Float[np.ndarray, " d"]
    """Of the covariance as it was measured, largest first: neither shrunk nor floored."""
    num_floored: int
    """How many directions the floor raised: those are less than whitened."""
    rms_norm: float
    """Root mean square of ‖y‖ over the rows it was fitted on: the length to give a y whose own is undefined."""

    def apply(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Return y = (x − μ) W, computed in float64 and rounded once."""
        y: np.ndarray = (x.astype(np.float64) - self.mean) @ self.forward
        return y.astype(np.float32)

    def invert(self, y: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n d"]:
        """Return x = y W⁻¹ + μ, computed in float64 and rounded once."""
        x: np.ndarray = y.astype(np.float64) @ self.backward + self.mean
        return x.astype(np.float32)


def make_transform(
    moments: Moments,
    mean: Float[np.ndarray, " d"],
    forward: Float[np.ndarray, "d k"],
    backward: Float[np.ndarray, "k d"],
    floored: int = 0,
) -> AffineTransform:
    """Return a map with its statistics on the rows that the moments describe.

    E‖y‖² = tr(WᵀΣW) + ‖(E x − μ) W‖², with Σ taken over n.
    """
    within = float(np.sum((moments.scatter @ forward) * forward)) / moments.count
    offset = (moments.mean - mean) @ forward
    values = np.linalg.eigvalsh(moments.covariance)[::-1].copy()
    radius = math.sqrt(within + float(offset @ offset))
    return AffineTransform(mean, forward, backward, values, floored, radius)
