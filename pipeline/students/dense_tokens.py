"""Patch tokens of a student in CLIP space: its head applied before pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.dilation import dilate_trunk, output_stride
from pipeline.project.errors import UsageError
from pipeline.students.backbones import unstride_stem
from pipeline.students.model import Student, normalize_pixels

TOLERANCE = 1e-3
"""Largest relative difference of the mean over positions from the pooled feature. Rounding gives 1e-6."""


@dataclass(frozen=True)
class PlaceFeatures:
    """A backbone that returns pooled features and those of every position, with the same weights."""

    backbone: Any
    dilated: Any = None
    """The same backbone on a finer grid; None for its own grid."""

    @classmethod
    def build(
        cls,
        student: Student,
        pixels: UInt8[Tensor, "b s s 3"],
        convert: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> PlaceFeatures:
        """Build it for a student's grid, its own or that of its parameters; `convert` adapts batch norms to processes.

        Raises:
            UsageError: the student has no tokens, or not on this grid.
        """
        backbone: Any = student.backbone
        grid, training = place_side(student, pixels.shape[1]), backbone.training
        images = normalize_pixels(pixels[:2], *student.mean_std)
        backbone.eval()
        finer = backbone_on_grid(student, grid, images, f"distill.{student.name}.grid")
        backbone.train(training)
        return cls(backbone, None if finer is backbone else share_weights(convert(finer), backbone))

    def __call__(
        self, pixels: Float[Tensor, "b 3 s s"], *, training: bool
    ) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b p f"]]:
        """Return pooled features, as the backbone itself computes them, and those of every position."""
        maps = self.backbone.forward_features(pixels)
        pooled = self.backbone.forward_head(maps)
        if self.dilated is not None:
            maps = self.dilated.train(training).forward_features(pixels)
        return pooled, maps.flatten(2).transpose(1, 2)


class StudentPlaces(nn.Module):
    """A student on a grid, in one pass: its embedding, from the undilated positions, and unit-length tokens of all.

    Raises:
        UsageError: the student has no tokens, or does not support this grid.
    """

    def __init__(self, student: Student, grid: int, size: int) -> None:
        super().__init__()
        images = normalize_pixels(torch.zeros((2, size, size, 3), dtype=torch.uint8), *student.mean_std)
        self.student = student
        self.backbone = backbone_on_grid(student, grid, images)
        with torch.no_grad():
            backbone: Any = student.backbone
            self.step = grid // int(backbone.forward_features(images).shape[-1])

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b p d"]]:
        """Return embedding and tokens."""
        maps = self.backbone.forward_features(pixels)
        pooled = maps[:, :, :: self.step, :: self.step].mean(dim=(2, 3))
        tokens = self.student.project(maps.flatten(2).transpose(1, 2))
        return self.student.project(pooled), functional.normalize(tokens, dim=-1)


def share_weights(copy: nn.Module, original: nn.Module) -> nn.Module:
    """Make a copy of a module share the weights and running statistics of the original, also in training."""
    for name, module in original.named_modules():
        twin = copy.get_submodule(name)
        twin._parameters.update(module._parameters)
        twin._buffers.update(module._buffers)
    return copy


@torch.no_grad()
def place_side(student: Student, size: int) -> int:
    """Return the side of the token grid in training: that of the parameters, or of the features.

    Raises:
        UsageError: it is not a square grid.
    """
    backbone: Any = student.backbone
    if student.params.grid is not None:
        return student.params.grid
    training = backbone.training
    features = backbone.eval().forward_features(torch.zeros(1, 3, size, size, device=next(student.parameters()).device))
    backbone.train(training)
    if features.ndim != 4 or features.shape[2] != features.shape[3]:
        raise UsageError(f"student '{student.name}': no tokens: it needs a convolutional backbone and a linear head")
    return int(features.shape[-1])


def embed_places(
    student: Student, pixels: UInt8[np.ndarray, "n s s 3"], grid: int, batch: int = 64
) -> Float[np.ndarray, "n p d"]:
    """Return unit-length tokens of every position of a square grid.

    With average pooling and a linear head, linear ∘ mean = mean ∘ linear: the head can be applied at each position
    without further parameters, and the mean over positions is the student's embedding. A grid finer than the backbone's
    is obtained by dilation.

    Raises:
        UsageError: the student pools differently, or does not support this grid.
    """
    places = backbone_on_grid(student, grid, normalize_pixels(_tensor(student, pixels[:2]), *student.mean_std))
    out = np.empty((len(pixels), grid * grid, student.dim), np.float32)
    for start in range(0, len(pixels), batch):
        images = normalize_pixels(_tensor(student, pixels[start : start + batch]), *student.mean_std)
        with torch.inference_mode():
            features = places.forward_features(images).flatten(2).transpose(1, 2)
            tokens = student.project(features.flatten(0, 1)).view(*features.shape[:2], -1)
            out[start : start + batch] = functional.normalize(tokens, dim=-1).float().cpu().numpy()
    return out


@torch.no_grad()
def backbone_on_grid(
    student: Student, grid: int, images: Float[Tensor, "b 3 s s"], key: str = "relate: the teacher's grid"
) -> Any:
    """Return the backbone with features on a grid, after checking on some images that pooling is their mean.

    Raises:
        UsageError: there is a layer between pooling and head, or the backbone does not support this grid.
    """
    backbone: Any = student.backbone
    size = images.shape[-1]
    features = backbone.forward_features(images)
    name = f"student '{student.name}'"
    if features.ndim != 4 or len(student.head) != 1:
        raise UsageError(f"{name}: no tokens: it needs a convolutional backbone and a linear head")
    pooled, mean = backbone(images), features.mean(dim=(2, 3))
    error = float((mean - pooled).abs().max() / pooled.abs().max()) if mean.shape == pooled.shape else 1.0
    if not error <= TOLERANCE:
        raise UsageError(
            f"{name}: no tokens: its features are not the mean over places (off by {error:.2g} of the largest): "
            "something stands between pooling and head. A ResNet has them"
        )
    if features.shape[-1] == grid:
        return backbone
    fine = student.params.backbone.stem_stride == 1
    stride = output_stride(size, grid, name, key) * (2 if fine else 1)
    stem = (lambda new: unstride_stem(new, student.name)) if fine else None
    return dilate_trunk(backbone, stride, size, name, key=key, stem=stem)


def _tensor(student: nn.Module, pixels: UInt8[np.ndarray, "b s s 3"]) -> UInt8[Tensor, "b s s 3"]:
    device = next(student.parameters()).device
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(device)
