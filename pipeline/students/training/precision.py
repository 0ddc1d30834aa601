"""The precision in which a backbone is trained, and the case in which bfloat16 is wrong."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.project.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass in `fp32`, `bf16` or `fp16`."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


@torch.no_grad()
def check_strides(backbone: nn.Module, pixels: Float[Tensor, "b 3 s s"], precision: str) -> None:
    """Check that no convolution has a stride beyond the side of its input, in bfloat16 on a CPU.

    There PyTorch 2.15 (oneDNN 3.13) reads uninitialized memory for the gradient of the weights: it may be NaN, or
    finite and wrong, and differs from run to run. float16, float32 and GPUs are not affected.

    Raises:
        UsageError: there is one; names an image size without.
    """
    if precision != "bf16" or pixels.device.type != "cpu":
        return
    size = pixels.shape[-1]
    overstepped = _overstepping(backbone, pixels)
    if overstepped:
        name, stride, side = overstepped[0]
        raise UsageError(
            f"distill.training.precision: bf16 on a CPU: the gradient of {name} is undefined for images of {size} px, "
            f"whose feature map has {side} px there and the stride is {stride}. Use precision: fp32, or images of at "
            f"least {_sufficient_size(backbone, pixels)} px"
        )


def _sufficient_size(backbone: nn.Module, pixels: Float[Tensor, "b 3 s s"]) -> int:
    """Return the first size, doubled from that of the images, at which no stride is beyond its input."""
    while _overstepping(backbone, pixels):
        pixels = pixels.repeat(1, 1, 2, 2)
    return pixels.shape[-1]


def _overstepping(backbone: nn.Module, pixels: Float[Tensor, "b 3 s s"]) -> list[tuple[str, int, int]]:
    """Return name, stride and side of the input of each convolution whose stride is beyond that side."""
    found: list[tuple[str, int, int]] = []

    def note(name: str, layer: nn.Conv2d, image: Tensor) -> None:
        side, stride = min(image.shape[-2:]), max(layer.stride)
        if stride > side and layer.groups < layer.in_channels:
            found.append((name, stride, side))

    training = backbone.training
    with ExitStack() as hooks:
        for name, layer in backbone.named_modules():
            if isinstance(layer, nn.Conv2d):
                hook = layer.register_forward_pre_hook(lambda one, images, name=name: note(name, one, images[0]))
                hooks.callback(hook.remove)
        backbone.eval()(pixels[:1])
    backbone.train(training)
    return found
