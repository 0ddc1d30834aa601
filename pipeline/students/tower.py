"""What both towers of a student share: a head that speaks the target space, and CLIP's own once folded."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.students.heads import last_layer


class Tower(nn.Module):
    """A trunk and a head.

    ŷ = head(trunk(x)); where the losses left its length undefined, ŷ ← r̄ ŷ/‖ŷ‖ with the targets' mean
    length r̄; and once folded, x̂ = ŷ W⁻¹ + μ, which merges into the head unless the length op stands between.
    """

    head: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.radius: float | None = None
        self.unwhiten: nn.Linear | None = None

    @property
    def dim(self) -> int:
        """Return the width of the embedding."""
        return (self.unwhiten or last_layer(self.head)).out_features

    def spoken(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        """Return the embedding of features: in the target space before folding, in CLIP space after."""
        out = self.finish(self.head(features))
        return out if self.unwhiten is None else self.unwhiten(out)

    def finish(self, out: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Give an output of undefined length the targets' mean length."""
        return out if self.radius is None else self.radius * functional.normalize(out, dim=-1)

    @torch.no_grad()
    def fold(self, backward: Float[Tensor, "k d"], mean: Float[Tensor, " d"]) -> None:
        """Make the tower speak CLIP space: x̂ = ŷ·backward + mean, computed in float64, stored in float32.

        Without the length op, W ← backwardᵀ W and β ← backwardᵀ β + mean: the model costs what it cost before.
        """
        if self.radius is not None:
            self.unwhiten = linear(backward.T, mean)
            return
        layer = last_layer(self.head)
        weight = backward.double().T @ layer.weight.double()
        bias = backward.double().T @ layer.bias.double() + mean.double()
        self.head[len(self.head) - 1] = linear(weight, bias)


def linear(weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]) -> nn.Linear:
    """Return a linear layer with these float32 parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
