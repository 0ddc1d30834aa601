"""Base of both towers of a student: outputs the target space and, after folding un-whitening, CLIP space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.params import ParamsSection


class Tower(nn.Module):
    """A trunk and a head.

    ŷ = head(trunk(x)); if the losses leave its norm undefined, ŷ ← r̄ ŷ/‖ŷ‖ with the RMS norm r̄ of the targets; and
    after folding, x̂ = ŷ W⁻¹ + μ, which is merged into the head unless the normalization is in between.
    """

    head: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.radius: float | None = None
        self.unwhiten: nn.Linear | None = None

    @property
    def dim(self) -> int:
        """Return the dimension of the embedding."""
        return (self.unwhiten or last_layer(self.head)).out_features

    def project(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        """Return the embedding of features: in the target space before folding, in CLIP space after."""
        out = self.rescale(self.head(features))
        return out if self.unwhiten is None else self.unwhiten(out)

    def rescale(self, out: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Rescale an output of undefined norm to the RMS norm of the targets."""
        return out if self.radius is None else self.radius * functional.normalize(out, dim=-1)

    @torch.no_grad()
    def fold_unwhitening(self, backward: Float[Tensor, "k d"], mean: Float[Tensor, " d"]) -> None:
        """Make the tower output CLIP space: x̂ = ŷ·backward + mean, computed in float64, stored in float32.

        Without the normalization, W ← backwardᵀ W and β ← backwardᵀ β + mean, at no extra cost.
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
"""A float32 variance of features below this is rounding error: the features are constant."""


class HeadParams(ParamsSection):
    """Parameters of the head."""

    kind: Literal["linear", "mlp"] = "linear"
    hidden: int = Field(default=1024, ge=1)
    """Width of the mlp's hidden layer."""


def build_head(features: int, dim: int, params: HeadParams, heads: tuple[int, ...] = ()) -> nn.Sequential:
    """Build the head, or several concatenated ones; the last layer is linear, so that un-whitening can be folded in.

    Linear heads of several teachers are one matrix; mlp heads have separate hidden units.
    """
    if params.kind == "linear":
        return nn.Sequential(nn.Linear(features, dim))
    hidden = params.hidden * max(len(heads), 1)
    last = BlockLinear(params.hidden, heads) if heads else nn.Linear(hidden, dim)
    return nn.Sequential(nn.Linear(features, hidden), nn.GELU(), last)


class BlockLinear(nn.Linear):
    """Several linear layers, each on its own inputs: a block-diagonal matrix."""

    def __init__(self, each: int, outputs: tuple[int, ...]) -> None:
        super().__init__(each * len(outputs), sum(outputs))
        with torch.no_grad():
            own: Tensor = torch.block_diag(*(torch.ones(width, each) for width in outputs))  # type: ignore[no-untyped-call]
            self.weight.mul_(own * math.sqrt(len(outputs)))  # torch's initialization range
        self.register_buffer("own", own, persistent=False)
        self.own: Tensor

    def forward(self, input: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:  # noqa: A002  torch's name for it
        """Return each block's output."""
        return functional.linear(input, self.weight * self.own, self.bias)


def last_layer(head: nn.Module) -> nn.Linear:
    """Return the last layer of a head."""
    layer = list(head.children())[-1]
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"a head ends in a linear layer, not in {type(layer).__name__}")
    return layer


@torch.no_grad()
def init_head(
    head: nn.Module,
    features: Float[Tensor, "b f"],
    mean: Float[Tensor, " k"],
    variance: float | Sequence[float],
    heads: tuple[int, ...] = (),
) -> None:
    """Scale the head so that its output has the targets' mean, and their mean variance per dimension.

    With o = Wf + β on these features: W ← W √(variance / mean_j Var(o_j)), then β ← mean − W E[f]. Training then starts
    at the same NMSE in every target space, so that arms differ in what they learn, not in their start. Each of several
    heads gets the variance of its own targets.
    """
    layer = last_layer(head)
    layer.bias.zero_()
    spreads = torch.split(head(features).var(dim=0, correction=0), list(heads) or [len(mean)])
    variances = variance if isinstance(variance, Sequence) else [variance]
    for block, spread, own in zip(
        torch.split(layer.weight, list(heads) or [len(mean)]), spreads, variances, strict=True
    ):
        block.mul_((own / spread.mean().clamp_min(VARIANCE_FLOOR)).sqrt())
    layer.bias.copy_(mean - head(features).mean(dim=0))
