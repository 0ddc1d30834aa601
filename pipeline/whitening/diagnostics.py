"""Diagnostics of a fitted space: round-trip error, stability, condition number, and noise of coarser storage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.whitening.comoments import CoMoments, NormMode, normalize_rows
from pipeline.whitening.spaces import Modality, TargetSpace
from pipeline.whitening.spectrum import FLOAT32_EIGENVALUE_EPS, eigendecompose, floor_eigenvalues

Rows = Float[np.ndarray, "n d"]
FLOOR = 1e-6
"""Relative floor of the eigenvalues in correlations: a millionth of the mean."""


@dataclass(frozen=True)
class StorageNoise:
    """Noise of rounding embeddings to a storage type along each axis, relative to that axis's variance."""

    dtype: str
    mean: float
    worst: float
    above_tenth: int
    """Number of axes on which the noise is more than a tenth of the signal."""
    axes: int
    """Number of axes that float32 resolves; the others contain only its rounding error and are excluded."""


def round_trip_error(space: TargetSpace, x: Rows, modality: Modality = "image") -> float:
    """Return E‖x̂ − x‖²/E‖x − E x‖² after whitening and un-whitening held-out embeddings.

    Embeddings are compared after pre-normalization. Zero means that an exact student loses nothing; removed axes and
    lost norms increase it.
    """
    rows = normalize_rows(x, space.pre_norm)
    back = space.to_embedding(space.to_target(x, modality), modality).astype(np.float64)
    return float(np.sum((back - rows) ** 2) / np.sum((rows - rows.mean(axis=0)) ** 2))


def split_half_distance(first: TargetSpace, second: TargetSpace, x: Rows, modality: Modality = "image") -> float:
    """Return the distance between two spaces fitted to two halves of the data, on the same held-out embeddings.

    E‖y₁ − y₂‖²/(E‖y₁‖² + E‖y₂‖²), both centered: 0 for the same space, 1 for two unrelated ones.
    """
    y1, y2 = (space.to_target(x, modality).astype(np.float64) for space in (first, second))
    spread = sum(float(np.sum((y - y.mean(axis=0)) ** 2)) for y in (y1, y2))
    return float(np.sum((y1 - y2) ** 2)) / spread


def condition_number(space: TargetSpace, modality: Modality = "image") -> float:
    """Return the squared ratio of the largest to the smallest singular value of W: λ'_max/λ'_min for a whitening."""
    stretches = np.linalg.svd(space.transform(modality).forward, compute_uv=False)
    return float((stretches[0] / stretches[-1]) ** 2)


def storage_noise(
    x: Rows, covariance: Float[np.ndarray, "d d"], pre_norm: NormMode
) -> tuple[StorageNoise, StorageNoise]:
    """Return the noise that float16 and bfloat16 would add to embeddings, along each axis of their covariance.

    Along eigenvector v, the noise is E((round(x) − x)ᵀv)², measured on the given rows, divided by the eigenvalue.
    """
    spectrum = eigendecompose(covariance)
    axes = int(np.count_nonzero(spectrum.values > FLOAT32_EIGENVALUE_EPS * spectrum.values[0]))
    exact = normalize_rows(x, pre_norm)
    noises = []
    for dtype, rounded in (("float16", x.astype(np.float16)), ("bfloat16", _bfloat16(x))):
        off = (normalize_rows(rounded.astype(np.float32), pre_norm) - exact) @ spectrum.vectors
        share = np.mean(off**2, axis=0)[:axes] / spectrum.values[:axes]
        noises.append(StorageNoise(dtype, float(share.mean()), float(share.max()), int(np.sum(share > 0.1)), axes))
    return noises[0], noises[1]


def _bfloat16(x: Rows) -> Rows:
    """Return float32 values rounded to bfloat16's 8 bits of mantissa, to nearest and ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def axis_correlation(moments: CoMoments) -> Float[np.ndarray, " d"]:
    """Return the correlation of images with their texts along each axis of the images' covariance.

    With v an eigenvector of Σ_x, and both sides whitened by their own Σ^−½:
    ρ = vᵀ Σ_x^−½ Σ_xt Σ_t^−½ v. Whitening gives all axes equal weight in a cosine, also those with ρ near zero. Empty
    if there are no pairs, or if images and texts have different dimensions.
    """
    if moments.cross is None or moments.text is None or len(moments.text.mean) != len(moments.image.mean):
        return np.zeros(0)
    image, text = eigendecompose(moments.image.covariance), eigendecompose(moments.text.covariance)
    roots = [
        spectrum.with_eigenvalues(floor_eigenvalues(spectrum.values, FLOOR)[0] ** -0.5) for spectrum in (image, text)
    ]
    joint = roots[0] @ moments.cross.covariance @ roots[1]
    correlation: np.ndarray = np.einsum("dk,de,ek->k", image.vectors, joint, image.vectors)
    return correlation
