"""A student: a backbone and a head for images, and optionally a small text tower."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.project.params import ParamsSection
from pipeline.students.backbones import BackboneParams, build_backbone, mean_std, num_features
from pipeline.students.text_tower import TextParams, TextTower
from pipeline.students.towers import HeadParams, Tower, build_head


class StudentParams(ParamsSection):
    """The section of one student, `distill.<student>`."""

    learning_rate: float = Field(default=2e-3, gt=0)
    backbone: BackboneParams = BackboneParams()
    head: HeadParams = HeadParams()
    text: TextParams | None = Field(default=None, exclude_if=lambda text: text is None)
    """The student's own text tower; without one, the teacher's cached text embeddings are used."""
    patches: bool = Field(default=False, exclude_if=lambda patches: not patches)
    """Whether it is also trained on patch tokens, by the loss `dense`, with its head applied before pooling."""
    grid: int | None = Field(default=None, ge=1, exclude_if=lambda grid: grid is None)
    """Side of the grid for `dense`; null: the backbone's own. A finer grid dilates the backbone, in a second pass."""

    @model_validator(mode="after")
    def _grid_is_of_patches(self) -> StudentParams:
        if self.grid is not None and not self.patches:
            raise ValueError("a grid is of patches: set patches: true")
        return self


class Student(Tower):
    """Maps normalized pixels to an embedding; `text` maps tokens.

    The output of both towers is in the target space during training, and in CLIP space after folding.
    """

    def __init__(self, name: str, params: StudentParams, dim: int, heads: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.name, self.params = name, params
        self.heads = heads
        """Dimensions of the heads of several teachers, in the order of the output."""
        self.backbone = build_backbone(name, params.backbone)
        self.mean_std = mean_std(self.backbone)
        """Mean and standard deviation of pixels for the backbone."""
        self.head = build_head(num_features(self.backbone), dim, params.head, heads)
        # Last, so that the image tower has the same initial weights with and without a text tower.
        self.text = None if params.text is None else TextTower(params.text, dim)
        self.norms = ""
        """Scope of the batch norm statistics during training."""
        self.card: dict[str, object] = {}

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return the embedding: in the target space before folding, in CLIP space after."""
        return self.project(self.backbone(pixels))


def normalize_pixels(
    pixels: UInt8[Tensor, "b s s 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 s s"]:
    """Return (pixels/255 − mean)/std, channels first in shape and last in memory, which speeds up convolutions."""
    scale, shift = (_affine if pixels.device.type == "cpu" else _kept_affine)(mean, std, pixels.device)
    return torch.addcmul(shift, pixels.float(), scale).permute(0, 3, 1, 2)


def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    return scale, torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)


@lru_cache(maxsize=8)
def _kept_affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the constants on a device, copied once: a copy at each step would wait for all pending work."""
    with torch.inference_mode(False):
        return _affine(mean, std, device)
