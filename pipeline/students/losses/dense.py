"""A loss over patches: the student's embedding of each patch against the teacher's patch token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class DenseLoss(nn.Module):
    """Token distillation: the share of the variance of the teacher's unit tokens that is left unexplained.

        x̂_i = ŷ_i W⁻¹ + μ,   ŷ_i ← r̄ ŷ_i/‖ŷ_i‖ where the losses leave the length undefined
        dense = E ‖x̂_i/‖x̂_i‖ − p_i‖² / E ‖p_i − p̄‖²

    ŷ_i is the head's output at place i in the target space, x̂_i what the folded student will say of it, and p_i the
    teacher's token: unit vectors of the space of the embeddings, since scorers of the dense map read nothing else.
    Predicting the mean token everywhere costs 1, as in `fd`.
    """

    def __init__(
        self, backward: Float[Tensor, "k d"], mean: Float[Tensor, " d"], rms_norm: float | None, variance: float
    ) -> None:
        super().__init__()
        # They are the target space's, not learnt, and not part of a run's state.
        self.register_buffer("unwhitening", backward.float(), persistent=False)
        self.register_buffer("mean", mean.float(), persistent=False)
        self.rms_norm, self.variance = rms_norm, variance

    def forward(self, said: Float[Tensor, "b p k"], wanted: Float[Tensor, "b p d"]) -> Float[Tensor, ""]:
        """Return the loss of the head's outputs."""
        return functional.mse_loss(self.tokens(said), wanted) / self.variance

    def tokens(self, said: Float[Tensor, "b p k"]) -> Float[Tensor, "b p d"]:
        """Return the unit tokens that the head's outputs become."""
        if self.rms_norm is not None:
            said = self.rms_norm * functional.normalize(said, dim=-1)
        return functional.normalize(said @ self.get_buffer("unwhitening") + self.get_buffer("mean"), dim=-1)


def token_variance(tokens: Float[Tensor, "n d"]) -> float:
    """Return E‖p − p̄‖²/d, in float64."""
    return float(tokens.to(torch.float64).var(dim=0, correction=0).mean())
