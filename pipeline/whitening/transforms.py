"""Affine maps y = (x − μ) W with analytic inverses, fitted to moments."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cache.fingerprint import sha256_bytes
from pipeline.whitening.comoments import Moments


@dataclass(frozen=True)
class AffineTransform:
    """Map of one modality into a target space and back; rows are multiplied from the left."""

    mean: Float[np.ndarray, " d"]
    forward: Float[np.ndarray, "d k"]
    backward: Float[np.ndarray, "k d"]
    eigenvalues: Float[np.ndarray, " d"]
    """Eigenvalues of the measured covariance, largest first, without shrinkage and floor."""
    num_floored: int
    """Number of directions raised by the floor, which are not fully whitened."""
    rms_norm: float
    """Root mean square of ‖y‖ over the fitted rows, used as the norm of a y without a defined norm."""

    def digest(self) -> str:
        """Return the SHA-256 of all its numbers."""
        arrays = (self.mean, self.forward, self.backward, self.eigenvalues, np.array([self.num_floored, self.rms_norm]))
        return digest_arrays(arrays)

    def apply(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Return y = (x − μ) W, computed in float64 and rounded once."""
        y: np.ndarray = (x.astype(np.float64) - self.mean) @ self.forward
        return y.astype(np.float32)

    def invert(self, y: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n d"]:
        """Return x = y W⁻¹ + μ, computed in float64 and rounded once."""
        x: np.ndarray = y.astype(np.float64) @ self.backward + self.mean
        return x.astype(np.float32)


def digest_arrays(arrays: Iterable[np.ndarray]) -> str:
    """Return one SHA-256 over the shapes and bytes of float64 arrays."""
    float64 = [np.ascontiguousarray(array, np.float64) for array in arrays]
    return sha256_bytes("".join(f"{array.shape} {sha256_bytes(array.data)}\n" for array in float64).encode())


def make_transform(
    moments: Moments,
    mean: Float[np.ndarray, " d"],
    forward: Float[np.ndarray, "d k"],
    backward: Float[np.ndarray, "k d"],
    floored: int = 0,
) -> AffineTransform:
    """Return a map with its statistics on the rows described by the moments.

    E‖y‖² = tr(WᵀΣW) + ‖(E x − μ) W‖², with Σ normalized by n.
    """
    within = float(np.sum((moments.scatter @ forward) * forward)) / moments.count
    offset = (moments.mean - mean) @ forward
    values = np.linalg.eigvalsh(moments.covariance)[::-1].copy()
    radius = math.sqrt(within + float(offset @ offset))
    return AffineTransform(mean, forward, backward, values, floored, radius)
