"""Give a convolutional tower a finer grid with the weights it has: strides become dilations (Yu & Koltun, 2016)."""

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
"""Of the largest feature: how far a shared place may be from that of the tower as it was. Rounding gives 1e-6, and a
tower whose average, norm or attention looks at other places gives 0.1 and more."""


class DilatedAverage(nn.Module):
    """The 2 × 2 average of places `step` apart; of those that lie outside, none counts."""

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
    """Return a timm tower with another output stride and the same weights, equal to it at the places they share.

    `stem` does to the new tower what was done to the stem of the given one; `key` is what messages blame.

    Raises:
        UsageError: timm cannot dilate this architecture, or dilated it computes something else.
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
    """Refuse a dilated tower that differs from the plain one at a place that both have.

    Raises:
        UsageError: how far it is off.
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
    """Let the averages of shortcuts skip as many places as the first convolution of their block does.

    timm gives them a stride of one and leaves their two neighbours side by side.
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
    """Return the stride that gives a grid of so many places a side.

    Raises:
        UsageError: the image does not divide so.
    """
    if size % grid or not math.log2(size // grid).is_integer():
        raise UsageError(f"{key}: {grid} places for the {size} px of {name}: expected {size} divided by a power of two")
    return size // grid
