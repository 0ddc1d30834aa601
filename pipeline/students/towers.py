"""What both towers of a student share: a head that speaks the target space, and CLIP's own once folded."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.params import ParamsSection


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

    def project(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        """Return the embedding of features: in the target space before folding, in CLIP space after."""
        out = self.rescale(self.head(features))
        return out if self.unwhiten is None else self.unwhiten(out)

    def rescale(self, out: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Give an output of undefined length the targets' mean length."""
        return out if self.radius is None else self.radius * functional.normalize(out, dim=-1)

    @torch.no_grad()
    def fold_unwhitening(self, backward: Float[Tensor, "k d"], mean: Float[Tensor, " d"]) -> None:
        """Make the tower speak CLIP space: x̂ = ŷ·backward + mean, computed in float64, stored in float32.

        Without the length op, W ← backwardᵀ W and β ← backwardᵀ β + mean: the model costs what it cost before.
        """
        if self.radius is not None:
            self.unwhiten = make_linear(backward.T, mean)
            return
        layer = last_layer(self.head)
        weight = backward.double().T @ layer.weight.double()
        bias = backward.double().T @ layer.bias.double() + mean.double()
        self.head[len(self.head) - 1] = make_linear(weight, bias)


def make_linear(weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]) -> nn.Linear:
    """Return a linear layer with these float32 parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


VARIANCE_FLOOR = 1e-12
"""Features that do not vary at all: a float32 variance below this is rounding."""


class HeadParams(ParamsSection):
    """How features become a target."""

    kind: Literal["linear", "mlp"] = "linear"
    hidden: int = Field(default=1024, ge=1)
    """Width of the mlp's hidden layer."""


def build_head(features: int, dim: int, params: HeadParams) -> nn.Sequential:
    """Build the head; its last layer is linear, so that un-whitening folds into it."""
    if params.kind == "linear":
        return nn.Sequential(nn.Linear(features, dim))
    return nn.Sequential(nn.Linear(features, params.hidden), nn.GELU(), nn.Linear(params.hidden, dim))


def last_layer(head: nn.Module) -> nn.Linear:
    """Return the linear layer that a head ends in."""
    layer = list(head.children())[-1]
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"a head ends in a linear layer, not in {type(layer).__name__}")
    return layer


@torch.no_grad()
def init_head(head: nn.Module, features: Float[Tensor, "b f"], mean: Float[Tensor, " k"], variance: float) -> None:
    """Give the head's output the target's mean, and its mean variance per dimension, on these features.

    With o = Wf + β: W ← W √(variance / mean_j Var(o_j)), then β ← mean − W E[f]. Every target space then
    starts from the same NMSE, so that arms differ in what they learn and not in where they begin.
    """
    layer = last_layer(head)
    layer.bias.zero_()
    spread = head(features).var(dim=0, correction=0).mean()
    layer.weight.mul_((variance / spread.clamp_min(VARIANCE_FLOOR)).sqrt())
    layer.bias.copy_(mean - head(features).mean(dim=0))
