"""Give a convolutional tower a finer grid with the same weights: strides become dilations (Yu & Koltun, 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.errors import UsageError

GRID = "params: 'embed.tokens.grid'"
TOLERANCE = 1e-3
"""Largest relative difference at a shared position between the dilated and the original tower.

Rounding gives 1e-6; a tower whose average, norm or attention uses other positions gives 0.1 and more.
"""


class DilatedAverage(nn.Module):
    """The 2 × 2 average of positions `step` apart; positions outside do not count."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Return mean of x[i, j], x[i+s, j], x[i, j+s], x[i+s, j+s]."""
        total = self._sum(x)
        return total / self._sum(torch.ones_like(x[:1, :1]))

    def _sum(self, x: Tensor) -> Tensor:
        s, (h, w) = self.step, x.shape[-2:]
        padded = functional.pad(x, (0, s, 0, s))
        corners = [padded[..., i : i + h, j : j + w] for i in (0, s) for j in (0, s)]
        return corners[0] + corners[1] + corners[2] + corners[3]


def dilate_trunk(
    trunk: Any, stride: int, size: int, name: str, *, key: str = GRID, stem: Callable[[nn.Module], None] | None = None
) -> nn.Module:
    """Return a timm tower with another output stride and the same weights, equal to it at shared positions.

    `stem` applies to the new tower the change of the given one's stem; `key` is the parameter for messages.

    Raises:
        UsageError: timm cannot dilate this architecture, or its dilated form computes something else.
    """
    import timm

    architecture = trunk.pretrained_cfg["architecture"]
    try:
        dilated = timm.create_model(architecture, num_classes=0, output_stride=stride)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"{key}: {architecture} of {name} cannot be dilated ({error}). Leave the grid as it is."
        ) from None
    if stem is not None:
        stem(dilated)
    dilated.load_state_dict(trunk.state_dict())
    _dilate_averages(dilated)
    dilated = dilated.eval().to(next(trunk.parameters()).device)
    check_dilation(trunk, dilated, size, f"{architecture} of {name}", key)
    return dilated  # type: ignore[no-any-return]


@torch.inference_mode()
def check_dilation(trunk: Any, dilated: Any, size: int, name: str, key: str = GRID) -> None:
    """Refuse a dilated tower that differs from the original at a shared position.

    Raises:
        UsageError: the size of the difference.
    """
    device = next(trunk.parameters()).device
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    coarse, fine = trunk.forward_features(pixels), dilated.forward_features(pixels)
    step = fine.shape[-1] // coarse.shape[-1]
    error = float((fine[..., ::step, ::step] - coarse).abs().max() / coarse.abs().max())
    if not error <= TOLERANCE:
        raise UsageError(
            f"{key}: {name}, dilated, is off by {error:.2g} of its largest feature at the places "
            "that it shares with the tower as trained (expected rounding, 1e-6). Leave the grid as it is."
        )


def _dilate_averages(trunk: nn.Module) -> None:
    """Dilate the averages of shortcuts like the first convolution of their block.

    timm sets their stride to one and leaves adjacent neighbors.
    """
    for block in [module for module in trunk.modules() if isinstance(getattr(module, "downsample", None), nn.Module)]:
        shortcut: Any = block.downsample
        for i, layer in enumerate(shortcut.children()):
            if isinstance(layer, nn.AvgPool2d) and _side(layer.stride) == 1:
                convolutions = [
                    m for n, m in block.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n
                ]
                steps = [conv.dilation[0] for conv in convolutions if max(conv.kernel_size) > 1]
                shortcut[i] = DilatedAverage(steps[0])


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def output_stride(size: int, grid: int, name: str, key: str = GRID) -> int:
    """Return the stride that gives a grid of this side.

    Raises:
        UsageError: the image size is not divisible accordingly.
    """
    if size % grid or not math.log2(size // grid).is_integer():
        raise UsageError(f"{key}: {grid} places for the {size} px of {name}: expected {size} divided by a power of two")
    return size // grid
