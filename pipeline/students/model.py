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
    """A text tower of its own; without one, the teacher's cached text embeddings are used."""
    patches: bool = Field(default=False, exclude_if=lambda patches: not patches)
    """Whether it learns a token of every place too, by the loss `dense`: its head before the pooling."""
    grid: int | None = Field(default=None, ge=1, exclude_if=lambda grid: grid is None)
    """Places a side that `dense` looks at; null: the backbone's own. A finer grid dilates it, in a second pass."""

    @model_validator(mode="after")
    def _grid_is_of_patches(self) -> StudentParams:
        if self.grid is not None and not self.patches:
            raise ValueError("a grid is of patches: set patches: true")
        return self


class Student(Tower):
    """Map normalised pixels to an embedding; `text` does so with tokens.

    Both towers speak the target space while they learn, and CLIP's own once folded.
    """

    def __init__(self, name: str, params: StudentParams, dim: int, heads: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.name, self.params = name, params
        self.heads = heads
        """How wide the head of each of several teachers is, side by side in the output."""
        self.backbone = build_backbone(name, params.backbone)
        self.mean_std = mean_std(self.backbone)
        """The pixels' mean and deviation that the backbone was made for."""
        self.head = build_head(num_features(self.backbone), dim, params.head, heads)
        # Last, so that a student of the same seed looks with the same initial weights, whether or not it reads.
        self.text = None if params.text is None else TextTower(params.text, dim)
        self.norms = ""
        """What its batch norms averaged over during training."""
        self.card: dict[str, object] = {}

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return the embedding: in the target space before folding, in CLIP space after."""
        return self.project(self.backbone(pixels))


def normalize_pixels(
    pixels: UInt8[Tensor, "b s s 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 s s"]:
    """Return (pixels/255 − mean)/std, channels first by shape and last in memory, as convolutions like it."""
    scale, shift = (_affine if pixels.device.type == "cpu" else _kept_affine)(mean, std, pixels.device)
    return torch.addcmul(shift, pixels.float(), scale).permute(0, 3, 1, 2)


def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    return scale, torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)


@lru_cache(maxsize=8)
def _kept_affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """On a GPU once: made at each step, their copies would wait for all work in flight."""
    with torch.inference_mode(False):
        return _affine(mean, std, device)
