"""The linear parts W of the target spaces, each with its inverse in closed form.

Rows are multiplied from the left, y = (x − μ) W, with Σ = V Λ Vᵀ and λ' the floored eigenvalues. Definitions of the
whitening methods: Kessy, Lewin & Strimmer, "Optimal whitening and decorrelation", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator
from scipy.linalg import solve_triangular

from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection
from pipeline.whitening.comoments import NormMode
from pipeline.whitening.hadamard import hadamard
from pipeline.whitening.spectrum import FLOAT32_EIGENVALUE_EPS, Shrinkage, Spectrum, eigendecompose, floor_eigenvalues

Method = Literal[
    "raw", "center", "scale", "standardize", "phi-s", "pca", "zca", "zca-cor", "cholesky", "soft-zca", "shared-zca"
]


class TargetParams(ParamsSection):
    """Parameters of a target space, a section of `whiten`: method and regularization."""

    method: Method = "zca"
    floor: float = Field(default=0.01, ge=0)
    """Eigenvalues below this fraction of their mean are raised to it."""
    eps: float = Field(default=0.0, ge=0)
    """Added to every eigenvalue, in the embedding's own units; for published recipes."""
    shrinkage: Shrinkage | Annotated[float, Field(ge=0, le=1)] = "none"
    """Weight of the identity in the shrunk covariance: a number, `ledoit-wolf` or `oas`."""
    power: float = Field(default=0.5, ge=0, le=1)
    """For `soft-zca`: 0 centers and scales, 1 is `zca`."""
    components: int | None = Field(default=None, ge=1)
    """For `pca`: number of axes to keep; default: all."""
    pre_norm: NormMode = "l2"
    """Whether embeddings are L2-normalized first."""
    post_norm: NormMode = "none"
    """Whether targets are L2-normalized afterwards."""
    teacher: str | tuple[str, ...] | None = Field(default=None, exclude_if=lambda name: name is None)
    """Names of teachers in `embed.teachers`; several are combined. Default: the first."""
    combine: Literal["ensemble", "heads"] = Field(default="ensemble", exclude_if=lambda how: how == "ensemble")
    """For several teachers: one space of the concatenated unit vectors, or one space and head per teacher."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """Return the names of the teachers; empty for the first."""
        return () if self.teacher is None else (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @model_validator(mode="after")
    def _combined_as_can_be(self) -> TargetParams:
        several = len(self.teachers) > 1
        if self.combine == "heads" and not several:
            raise ValueError("combine: heads needs teacher: [NAME, NAME, …]")
        if several and self.pre_norm != "l2":
            raise ValueError("teachers are combined as unit vectors: leave pre_norm at l2")
        if self.combine == "heads" and self.post_norm != "none":
            raise ValueError("combine: heads: leave post_norm at none: each head has its own length")
        if self.combine == "heads" and self.components is not None:
            raise ValueError("combine: heads: leave components out")
        return self


@dataclass(frozen=True)
class LinearMap:
    """W, its inverse, and the number of directions raised by the floor."""

    forward: Float[np.ndarray, "d k"]
    backward: Float[np.ndarray, "k d"]
    floored: int = 0


def _identity(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    return LinearMap(np.eye(len(covariance)), np.eye(len(covariance)))


def _scale(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = I/σ with σ² = tr Σ/d: the control for claims about whitening."""
    one = np.eye(len(covariance))
    sigma = np.sqrt(np.trace(covariance) / len(covariance))
    return LinearMap(one / sigma, one * sigma)


def _standardize(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = D^−½ with D the variances of the coordinates."""
    variances, count = _floored(np.diagonal(covariance), params)
    return LinearMap(np.diag(variances**-0.5), np.diag(variances**0.5), count)


def _phi_s(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = V Hᵀ/φ with φ² = λ̄ and H a normalized Hadamard matrix.

    Every coordinate gets variance 1 with one constant, so that an error of norm e in y has norm φe in x (Ranzinger et
    al., "PHI-S", 2024).
    """
    vectors = eigendecompose(covariance).vectors
    rotation = vectors @ hadamard(len(covariance)).T / np.sqrt(len(covariance))
    phi = np.sqrt(np.trace(covariance) / len(covariance))
    return LinearMap(rotation / phi, rotation.T * phi)


def _pca(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = V Λ'^−½, the first k columns. Rotated by V, so it cannot be compared between modalities."""
    spectrum, values, count = _decomposed(covariance, params)
    k = params.components or len(values)
    root = np.sqrt(values[:k])
    axes = spectrum.vectors[:, :k]
    return LinearMap(axes / root, (axes * root).T, max(0, count - (len(values) - k)))


def _zca(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = V Λ'^−½ Vᵀ = Σ^−½: the whitening that changes x − μ least."""
    spectrum, values, count = _decomposed(covariance, params)
    return LinearMap(spectrum.with_eigenvalues(values**-0.5), spectrum.with_eigenvalues(values**0.5), count)


def _zca_cor(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = D^−½ P^−½ with Σ = D^½ P D^½: the whitening with the largest correlation with x.

    A coordinate whose variance is raised by the floor counts as uncorrelated with all others.
    """
    deviations = np.sqrt(_floored(np.diagonal(covariance), params)[0])
    correlations = covariance / np.outer(deviations, deviations)
    np.fill_diagonal(correlations, 1)
    spectrum, values, count = _decomposed(correlations, params)
    return LinearMap(
        spectrum.with_eigenvalues(values**-0.5) / deviations[:, None],
        spectrum.with_eigenvalues(values**0.5) * deviations[None, :],
        count,
    )


def _cholesky(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = L with LLᵀ = Σ⁻¹, from the reversed factor: Σ = UUᵀ, U upper, L = U⁻ᵀ."""
    spectrum, values, count = _decomposed(covariance, params)
    upper = np.linalg.cholesky(spectrum.with_eigenvalues(values)[::-1, ::-1])[::-1, ::-1]
    return LinearMap(solve_triangular(upper.T, np.eye(len(upper)), lower=True), upper.T.copy(), count)


def _soft_zca(covariance: Float[np.ndarray, "d d"], params: TargetParams) -> LinearMap:
    """W = c V Λ'^(−p/2) Vᵀ with c such that tr(WᵀΣW) = d: between `scale` (p = 0) and `zca` (p = 1)."""
    spectrum, values, count = _decomposed(covariance, params)
    root = values ** (params.power / 2)
    c = np.sqrt(len(values) / np.sum(spectrum.values / root**2))
    return LinearMap(spectrum.with_eigenvalues(c / root), spectrum.with_eigenvalues(root / c), count)


def _decomposed(
    covariance: Float[np.ndarray, "d d"], params: TargetParams
) -> tuple[Spectrum, Float[np.ndarray, " d"], int]:
    spectrum = eigendecompose(covariance)
    return spectrum, *_floored(spectrum.values, params)


def _floored(variances: Float[np.ndarray, " d"], params: TargetParams) -> tuple[Float[np.ndarray, " d"], int]:
    """Return floored variances; refuse variances that are only rounding error, because W divides by them."""
    values, count = floor_eigenvalues(variances, params.floor, params.eps)
    leading = values[: params.components] if params.method == "pca" else values
    none = int(np.count_nonzero(leading <= FLOAT32_EIGENVALUE_EPS * values.max()))
    if none:
        raise UsageError(f"{none} of {len(values)} axes hold no variance to be divided by. Set floor or shrinkage.")
    return values, count


METHODS: dict[Method, Callable[[Float[np.ndarray, "d d"], TargetParams], LinearMap]] = {
    "raw": _identity,
    "center": _identity,
    "scale": _scale,
    "standardize": _standardize,
    "phi-s": _phi_s,
    "pca": _pca,
    "zca": _zca,
    "zca-cor": _zca_cor,
    "cholesky": _cholesky,
    "soft-zca": _soft_zca,
    "shared-zca": _zca,
}
ROTATING = frozenset({"phi-s", "pca", "cholesky"})
"""Methods that rotate the axes of each modality differently, so that images and texts cannot be compared."""
SPECTRAL = frozenset({"pca", "zca", "zca-cor", "cholesky", "soft-zca", "shared-zca"})
"""Methods that divide by the root of each eigenvalue, and therefore need all of them."""


PUBLISHED: dict[str, TargetParams] = {
    "wclip-kd": TargetParams(method="zca", floor=0.0, eps=1e-5, pre_norm="none", post_norm="l2"),
    "wclip": TargetParams(method="pca", floor=0.0, pre_norm="none"),
}
"""Published recipes.

`wclip-kd`, of the study that distilled against whitened targets (farazahmad2004/W_CLIP_KD, notebooks): ZCA of
unnormalized
embeddings, 1e-5 added to every eigenvalue, targets L2-normalized; it used only the first caption of each image
(`moments.captions: first`).

`wclip`, of Whitened CLIP (rbetser/W_CLIP, whitening_code.py): PCA, no normalization, no regularization. Its code uses
a solver for general matrices in float32; ours is symmetric and in float64, which gives the same axes up to signs.
"""

AUDIT_SPACES: dict[str, TargetParams] = {
    **{method: TargetParams(method=method) for method in METHODS},
    "zca, no floor": TargetParams(method="zca", floor=0.0),
    **PUBLISHED,
}
"""Spaces that an audit tries in addition to those of the parameters."""
