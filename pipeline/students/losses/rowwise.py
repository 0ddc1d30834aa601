"""Row-wise losses between a student's embeddings and the cached targets.

All are in units of the targets, so that one weight means the same in every target space: squared errors relative to the
targets' variance (NMSE), angles relative to the targets' spread of angles. A constant prediction of the targets' mean
has `fd` = 1 in every space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cache.normalization import l2_normalize

EDGE = 1e-6
"""arccos has an infinite slope at ±1; float32 cosines are clamped this far inside."""


@dataclass(frozen=True)
class TargetScale:
    """Units of the losses, from the targets of one modality."""

    variance: float
    """E‖y − ȳ‖²/k."""
    dispersion: float
    """E θ², with θ the angle between a target and the targets' mean direction."""


@dataclass(frozen=True)
class TargetStats(TargetScale):
    """Units of the losses, initialization of a head, and norm of an output whose own is undefined."""

    mean: Float[np.ndarray, " k"]
    rms_norm: float
    """Root mean square of ‖y‖."""


def measure_targets(targets: Float[np.ndarray, "*rows k"]) -> TargetStats:
    """Measure the targets of one modality over all rows, of one view or of several, in float64.

    Disp(θ) = E[∠(y, ȳ̂)²] with ȳ̂ the direction of the mean of the unit vectors (RADIOv2.5's balancing of angles).
    """
    rows = targets.reshape(-1, targets.shape[-1]).astype(np.float64)
    directions = l2_normalize(rows, np.float64)
    cosines = directions @ l2_normalize(directions.mean(axis=0, keepdims=True), np.float64)[0]
    return TargetStats(
        variance=float(rows.var(axis=0).mean()),
        dispersion=float(np.square(np.arccos(np.clip(cosines, -1, 1))).mean()),
        mean=rows.mean(axis=0).astype(np.float32),
        rms_norm=float(np.sqrt(np.square(rows).sum(axis=-1).mean())),
    )


def fd(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """Feature distillation: mean (y − t)²/Var(t), the unexplained fraction of the targets' variance."""
    return functional.mse_loss(y, t) / unit.variance


def smooth_l1(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """Huber's loss on (y − t)/σ with β = 1: like fd/2 near the target, linear beyond one deviation."""
    return functional.smooth_l1_loss(y / unit.variance**0.5, t / unit.variance**0.5)


def cosine(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """1 − cos(y, t): invariant to the norm of y."""
    del unit  # a cosine has none
    return 1 - functional.cosine_similarity(y, t, dim=-1).mean()


def angle(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """E θ(y, t)²/Disp(θ): RADIO's loss for summary vectors; invariant to the norm of y."""
    cosines = functional.cosine_similarity(y, t, dim=-1).clamp(-1 + EDGE, 1 - EDGE)
    return torch.arccos(cosines).square().mean() / unit.dispersion


def gram(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """Relations within the batch: ‖ȲȲᵀ − T̄T̄ᵀ‖²/‖T̄T̄ᵀ − 1̄‖², bars for unit rows, 1̄ for their mean.

    Invariant to rotations of y and to its norm.
    """
    del unit  # the unit is the batch's own Gram matrix
    mine, theirs = (functional.normalize(rows, dim=-1) @ functional.normalize(rows, dim=-1).T for rows in (y, t))
    return (mine - theirs).square().mean() / theirs.var(correction=0).clamp_min(torch.finfo(theirs.dtype).tiny)


ROWWISE = {"fd": fd, "smooth_l1": smooth_l1, "cosine": cosine, "angle": angle, "gram": gram}


class DenseLoss(nn.Module):
    """Token distillation: the unexplained fraction of the variance of the teacher's unit-length tokens.

        x̂_i = ŷ_i W⁻¹ + μ,   ŷ_i ← r̄ ŷ_i/‖ŷ_i‖ if the losses leave the norm undefined
        dense = E ‖x̂_i/‖x̂_i‖ − p_i‖² / E ‖p_i − p̄‖²

    ŷ_i is the head's output at position i in the target space, x̂_i the output of the folded student, and p_i the
    teacher's token: unit vectors in the space of the embeddings, which scorers of the dense map use. A constant
    prediction of the mean token has loss 1, as in `fd`.
    """

    def __init__(
        self, backward: Float[Tensor, "k d"], mean: Float[Tensor, " d"], rms_norm: float | None, variance: float
    ) -> None:
        super().__init__()
        # Constants of the target space, not learned, and not part of a run's state.
        self.register_buffer("unwhitening", backward.float(), persistent=False)
        self.register_buffer("mean", mean.float(), persistent=False)
        self.rms_norm, self.variance = rms_norm, variance

    def forward(self, outputs: Float[Tensor, "b p k"], tokens: Float[Tensor, "b p d"]) -> Float[Tensor, ""]:
        """Return the loss of the head's outputs."""
        return functional.mse_loss(self.tokens(outputs), tokens) / self.variance

    def tokens(self, outputs: Float[Tensor, "b p k"]) -> Float[Tensor, "b p d"]:
        """Return the unit-length tokens of the head's outputs."""
        if self.rms_norm is not None:
            outputs = self.rms_norm * functional.normalize(outputs, dim=-1)
        return functional.normalize(outputs @ self.get_buffer("unwhitening") + self.get_buffer("mean"), dim=-1)


def token_variance(tokens: Float[Tensor, "n d"]) -> float:
    """Return E‖p − p̄‖²/d, in float64."""
    return float(tokens.to(torch.float64).var(dim=0, correction=0).mean())
