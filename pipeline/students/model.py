"""A student: a backbone and a head, speaking the target space in training and CLIP space once folded."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.params import Section
from pipeline.students.backbones import BackboneParams, build_backbone, feature_count, mean_std
from pipeline.students.heads import HeadParams, build_head, last_layer


class StudentParams(Section):
    """The section of one student, `distill.<student>`."""

    learning_rate: float = Field(default=2e-3, gt=0)
    backbone: BackboneParams = BackboneParams()
    head: HeadParams = HeadParams()


class Student(nn.Module):
    """Map normalised pixels to an embedding.

    ŷ = head(backbone(x)); where the losses left its length undefined, ŷ ← r̄ ŷ/‖ŷ‖ with the targets' mean
    length r̄; and once folded, x̂ = ŷ W⁻¹ + μ, which merges into the head unless the length op stands between.
    """

    def __init__(self, name: str, params: StudentParams, dim: int) -> None:
        super().__init__()
        self.name, self.params = name, params
        self.backbone = build_backbone(name, params.backbone)
        self.mean_std = mean_std(self.backbone)
        """The pixels' mean and deviation that the backbone was made for."""
        self.head = build_head(feature_count(self.backbone), dim, params.head)
        self.radius: float | None = None
        self.unwhiten: nn.Linear | None = None
        self.card: dict[str, object] = {}

    @property
    def dim(self) -> int:
        """Return the width of the embedding."""
        return (self.unwhiten or last_layer(self.head)).out_features

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return the embedding: in the target space before folding, in CLIP space after."""
        out = self.finish(self.head(self.backbone(pixels)))
        return out if self.unwhiten is None else self.unwhiten(out)

    def finish(self, out: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Give an output of undefined length the targets' mean length."""
        return out if self.radius is None else self.radius * functional.normalize(out, dim=-1)

    @torch.no_grad()
    def fold(self, backward: Float[Tensor, "k d"], mean: Float[Tensor, " d"]) -> None:
        """Make the student speak CLIP space: x̂ = ŷ·backward + mean, computed in float64, stored in float32.

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


def normalise(
    pixels: UInt8[Tensor, "b s s 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 s s"]:
    """Return (pixels/255 − mean)/std, channels first by shape and last in memory, as convolutions like it."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=pixels.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device)
    return torch.addcmul(shift, pixels.float(), scale).permute(0, 3, 1, 2)
