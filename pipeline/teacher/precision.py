"""Compare a teacher in half precision with float32 before its embeddings are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from jaxtyping import Float

from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import ViewParams
from pipeline.project.errors import UsageError
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.shards import preprocess

MEAN, WORST = 1e-3, 1e-2
"""Limits of noise relative to the signal, on average and on the worst axis; the same as in `verify --recompute`."""
FLOOR = 0.01
"""Axes with a variance below this fraction of the largest are excluded, because a floor does not whiten them."""
IMAGES = 256


@dataclass(frozen=True)
class PrecisionNoise:
    """Difference of two sets of embeddings of the same images, along the axes of the first."""

    mean: float
    worst: float

    @property
    def acceptable(self) -> bool:
        """Return whether the noise is negligible in whitened targets."""
        return self.mean <= MEAN and self.worst <= WORST


def check_precision(
    teacher: Teacher, params: TeacherParams, packed: PackedSplit, views: ViewParams, batch: int
) -> None:
    """Refuse half precision whose noise whitening would amplify, measured on the first images of a split.

    Raises:
        UsageError: its noise is above the limits, and was not accepted.
    """
    if params.precision == "fp32" or params.allow_half_precision_noise:
        return
    samples = islice(packed.read(0, "size"), IMAGES)
    pixels = [preprocess(sample, [0], views, teacher.identity).pixels[0] for sample in samples]
    exact = replace(teacher, identity=replace(teacher.identity, precision="fp32"))
    noise = measure_noise(_embed_batches(exact, pixels, batch), _embed_batches(teacher, pixels, batch))
    if not noise.acceptable:
        raise UsageError(
            f"params: 'embed.teacher.precision': {params.precision} adds noise of {100 * noise.mean:.2g} % of the "
            f"signal on average and {100 * noise.worst:.2g} % on the axis where it is worst, measured on "
            f"{len(pixels)} images; whitened targets take at most {100 * MEAN:g} % and {100 * WORST:g} %. Use fp32, or "
            "set embed.teacher.allow_half_precision_noise: true for targets that are not whitened."
        )


def measure_noise(exact: Float[np.ndarray, "n d"], rough: Float[np.ndarray, "n d"]) -> PrecisionNoise:
    """Return E[((x̃ − x)·v)²]/λ, mean and maximum over the axes v of the covariance of x with λ ≥ FLOOR·λ₁."""
    x, apart = exact.astype(np.float64), rough.astype(np.float64) - exact
    variance, axes = np.linalg.eigh(np.cov(x, rowvar=False))
    mask = variance >= FLOOR * variance[-1]
    shares = np.square(apart @ axes[:, mask]).mean(axis=0) / variance[mask]
    return PrecisionNoise(float(shares.mean()), float(shares.max()))


def _embed_batches(teacher: Teacher, pixels: Sequence[np.ndarray], batch: int) -> Float[np.ndarray, "n d"]:
    parts = [np.stack(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    return np.concatenate([teacher.embed_images(part) for part in parts])
