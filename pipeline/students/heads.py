"""The head of a student: from the backbone's features to the target space."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pipeline.project.params import Section

VARIANCE_FLOOR = 1e-12
"""Features that do not vary at all: a float32 variance below this is rounding."""


class HeadParams(Section):
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
def initialise(head: nn.Module, features: Float[Tensor, "b f"], mean: Float[Tensor, " k"], variance: float) -> None:
    """Give the head's output the target's mean, and its mean variance per dimension, on these features.

    With o = Wf + β: W ← W √(variance / mean_j Var(o_j)), then β ← mean − W E[f]. Every target space then
    starts from the same NMSE, so that arms differ in what they learn and not in where they begin.
    """
    layer = last_layer(head)
    layer.bias.zero_()
    spread = head(features).var(dim=0, correction=0).mean()
    layer.weight.mul_((variance / spread.clamp_min(VARIANCE_FLOOR)).sqrt())
    layer.bias.copy_(mean - head(features).mean(dim=0))
