"""bf16 on a CPU: refused where PyTorch's gradient is wrong, close to fp32 and reproducible elsewhere."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from pipeline.project.errors import UsageError
from pipeline.students.backbones import BackboneParams, build_backbone
from pipeline.students.training.precision import autocast, check_strides
from tests.factories.students import TINY


def strided(groups: int = 1, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, stride, 1, groups=groups))


def pixels(size: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize(("size", "stride", "side", "least"), [(2, 2, 1, 4), (2, 4, 1, 8), (6, 4, 3, 12)])
def test_a_stride_beyond_the_side_of_the_feature_map_is_refused(size: int, stride: int, side: int, least: int) -> None:
    said = f"the gradient of 1 is undefined for images of {size} px, whose feature map has {side} px there"
    with pytest.raises(UsageError, match=f"{re.escape(said)}.*{stride}.*fp32, or images of at least {least} px"):
        check_strides(strided(stride=stride), pixels(size), "bf16")
    check_strides(strided(stride=stride), pixels(least), "bf16")


@pytest.mark.parametrize(("model", "precision"), [(strided(16), "bf16"), (strided(), "fp32"), (strided(), "fp16")])
def test_depthwise_layers_and_other_precisions_are_not(model: nn.Module, precision: str) -> None:
    check_strides(model, pixels(2), precision)


def test_the_check_leaves_the_backbone_as_it_was() -> None:
    model = build_backbone(TINY, BackboneParams()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_strides(model, pixels(32), "bf16")
    for size, first in ((16, "layer4"), (8, "layer3")):  # at 8 px two layers are affected, and 16 would not do
        with pytest.raises(UsageError, match=rf"{first}\.0\.conv\d .*at least 32 px"):
            check_strides(model, pixels(size), "bf16")
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def gradients(model: nn.Module, images: Tensor, precision: str) -> list[Tensor]:
    with autocast(precision, images.device):
        features = model(images)
    return list(torch.autograd.grad(features.float().square().mean(), list(model.parameters())))


@pytest.mark.parametrize("student", [TINY, "mobilenetv3"])
def test_elsewhere_gradients_are_those_of_fp32_up_to_rounding_and_the_same_again(student: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(student, BackboneParams()).eval()
    images = pixels(32)
    check_strides(model, images, "bf16")
    exact, rounded, again = (gradients(model, images, each) for each in ("fp32", "bf16", "bf16"))
    assert all(torch.equal(one, two) for one, two in zip(rounded, again, strict=True))
    whole, error = (torch.cat([each.flatten() for each in kind]) for kind in (exact, rounded))
    assert (error - whole).norm() < 0.1 * whole.norm()
