"""Counts, means and co-moments of embeddings (raw or L2-normalized), which merge exactly in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from cache.normalization import l2_normalize
from pipeline.project.errors import PipelineError

NormMode = Literal["none", "l2"]


def normalize_rows(rows: Float[np.ndarray, "n d"], norm: NormMode) -> Float[np.ndarray, "n d"]:
    """Return the rows as a new float64 array, divided by their norms if `norm` is `l2`.

    Raises:
        PipelineError: a row is zero or not finite, which would make every mean and covariance wrong.
    """
    if norm == "none":
        return rows.astype(np.float64)
    unit = l2_normalize(rows, np.float64)
    bad = np.flatnonzero(~np.isfinite(unit).all(axis=1) | ~unit.any(axis=1))
    if bad.size:
        length = np.linalg.norm(rows[bad[0]].astype(np.float64))
        raise PipelineError(
            f"row {bad[0]} of {len(rows)} has length {length}: it has no direction to normalize. "
            "Embed again, or use `pre_norm: none`."
        )
    return unit


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of a set of rows, with the third and fourth moments that Ledoit–Wolf needs."""

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]
    """Σ (x − μ)(x − μ)ᵀ."""
    cubic: Float[np.ndarray, " d"]
    """Σ ‖x − μ‖² (x − μ), needed to shift the fourth moment to another mean."""
    quartic: float
    """Σ ‖x − μ‖⁴."""

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Return the unbiased covariance S/(n − 1)."""
        return self.scatter / max(self.count - 1, 1)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the union of two sets.

        With δ = μ₂ − μ₁ and n = n₁ + n₂ (Chan, Golub & LeVeque, 1983):

            μ = μ₁ + δ n₂/n
            S = S₁ + S₂ + δδᵀ n₁n₂/n

        The third and fourth moments are shifted to μ first and then added.
        """
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        cubic1, quartic1 = self._shifted(delta * (other.count / count))
        cubic2, quartic2 = other._shifted(delta * (-self.count / count))
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            _merged(self.scatter, other.scatter, delta, delta, self.count * other.count / count),
            cubic1 + cubic2,
            quartic1 + quartic2,
        )

    def _shifted(self, shift: Float[np.ndarray, " d"]) -> tuple[Float[np.ndarray, " d"], float]:
        """Return the cubic and quartic sums about μ + e.

        With y = x − μ, so that Σy = 0, and q = ‖y‖² (derived by expanding ‖y − e‖²):

            Σ ‖y − e‖²(y − e) = Σqy − 2Se − e tr S − n‖e‖²e
            Σ ‖y − e‖⁴        = Σq² − 4eᵀΣqy + 4eᵀSe + 2‖e‖² tr S + n‖e‖⁴
        """
        moved = self.scatter @ shift
        square = float(shift @ shift)
        trace = float(np.trace(self.scatter))
        cubic = self.cubic - 2 * moved - (trace + self.count * square) * shift
        quartic = self.quartic + 4 * float(shift @ (moved - self.cubic)) + square * (2 * trace + self.count * square)
        return cubic, quartic


@dataclass(frozen=True)
class CrossMoments:
    """Count, both means and the cross scatter of pairs of an image row and a text row."""

    count: int
    image_mean: Float[np.ndarray, " d"]
    text_mean: Float[np.ndarray, " e"]
    scatter: Float[np.ndarray, "d e"]
    """Σ (x − μ_x)(t − μ_t)ᵀ over pairs."""

    @property
    def covariance(self) -> Float[np.ndarray, "d e"]:
        """Return the unbiased cross-covariance."""
        return self.scatter / max(self.count - 1, 1)

    def merge(self, other: CrossMoments) -> CrossMoments:
        """Return the cross moments of the union of two sets: Chan's formula with δ_x δ_tᵀ in place of δδᵀ."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        image, text = other.image_mean - self.image_mean, other.text_mean - self.text_mean
        share = other.count / count
        return CrossMoments(
            count,
            self.image_mean + image * share,
            self.text_mean + text * share,
            _merged(self.scatter, other.scatter, image, text, self.count * share),
        )


@dataclass(frozen=True)
class CoMoments:
    """Moments of the image rows, of the text rows, and of the pairs; without captions only of the image rows."""

    pre_norm: NormMode
    image: Moments
    text: Moments | None
    cross: CrossMoments | None

    @property
    def by_modality(self) -> dict[str, Moments]:
        """Return the moments of the available modalities."""
        return {"image": self.image, "text": self.text} if self.text else {"image": self.image}

    def merge(self, other: CoMoments) -> CoMoments:
        """Return the co-moments of the union of two sets."""
        return CoMoments(
            self.pre_norm,
            self.image.merge(other.image),
            self.text.merge(other.text) if self.text and other.text else self.text or other.text,
            self.cross.merge(other.cross) if self.cross and other.cross else self.cross or other.cross,
        )


def _merged(
    first: Float[np.ndarray, "d e"],
    second: Float[np.ndarray, "d e"],
    left: Float[np.ndarray, " d"],
    right: Float[np.ndarray, " e"],
    weight: float,
) -> Float[np.ndarray, "d e"]:
    """Return first + second + weight · left rightᵀ in one new array."""
    merged = np.outer(left * weight, right)
    merged += first
    merged += second
    return merged


ROWS_PER_DIMENSION = 10
"""Below this, small eigenvalues are mostly noise: new whitened rows have E‖y‖²/d = 1.12 here, 4.3 at 1.3 rows."""


def is_well_sampled(rows: int, dimensions: int) -> bool:
    """Return whether there are at least ten rows per dimension."""
    return rows >= ROWS_PER_DIMENSION * dimensions


def undersampled_sides(moments: CoMoments) -> dict[str, Moments]:
    """Return the moments with fewer than ten rows per dimension, by modality."""
    return {side: m for side, m in moments.by_modality.items() if not is_well_sampled(m.count, len(m.mean))}


def sample_size_warning(
    rows: dict[str, int], dimensions: int, rules: Sequence[str] = ("whitened", "soft")
) -> str | None:
    """Return a warning about whitening rules that were fitted to too few rows, by modality."""
    few = [f"{count} {side} rows" for side, count in rows.items() if not is_well_sampled(count, dimensions)]
    if not few:
        return None
    several = len(rules) > 1
    named = " and ".join(f"`{rule}`" for rule in rules)
    return (
        f"{named} {'were' if several else 'was'} fitted to {' and '.join(few)}, below {ROWS_PER_DIMENSION} a dimension "
        f"({ROWS_PER_DIMENSION * dimensions}): {'their ceilings depend' if several else 'its ceiling depends'} on how "
        f"many there were, and mostly {'rise' if several else 'rises'} with more. Compare students under "
        f"{'these rules' if several else 'this rule'} on this very fit only."
    )
