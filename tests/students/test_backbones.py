"""Backbones: short names, any timm model, and one clear line for what timm does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.project.errors import UsageError
from pipeline.students.backbones import (
    STUDENTS,
    BackboneParams,
    build_backbone,
    initial_weights_facts,
    num_features,
    timm_name,
)


@pytest.mark.parametrize("student", [*STUDENTS, "test_vit", "test_efficientnet"])
def test_a_backbone_gives_as_many_features_as_it_says(student: str) -> None:
    backbone = build_backbone(student, BackboneParams()).eval()
    size = 160 if student == "test_vit" else 64
    assert backbone(torch.zeros(1, 3, size, size)).shape == (1, num_features(backbone))


def test_another_timm_model_can_stand_behind_a_name() -> None:
    assert timm_name("mine", BackboneParams(name="test_resnet")) == "test_resnet"


def test_an_unknown_student_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="no student or timm model 'mobilenetv33'; did you mean 'mobilenetv3'"):
        timm_name("mobilenetv33", BackboneParams())


@pytest.mark.parametrize("student", ["mobilenetv3", "resnet18", "mobilevit"])
def test_a_stem_without_stride_sees_four_times_as_much(student: str) -> None:
    sizes = []
    for stride in (2, 1):
        backbone = build_backbone(student, BackboneParams(stem_stride=stride)).eval()
        sizes.append(cast(Any, backbone).forward_features(torch.zeros(1, 3, 64, 64)).shape[-1])
    assert sizes[1] == 2 * sizes[0]


def test_a_model_without_a_strided_stem_says_so() -> None:
    with pytest.raises(UsageError, match="test_vit has no stem"):
        build_backbone("test_vit", BackboneParams(stem_stride=1))


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_backbone("test_resnet", BackboneParams()).state_dict()["conv1.0.weight"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_half_precision_weights_are_widened_and_their_classifier_is_left_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    published = {
        name: value.half() if value.is_floating_point() else value
        for name, value in timm.create_model("test_efficientnet", num_classes=7).state_dict().items()
    }
    path = tmp_path / "weights.safetensors"
    save_file(published, path)
    weights = build_backbone("test_efficientnet", BackboneParams(weights=str(path))).state_dict()
    assert {name for name in published if name not in weights} == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, published[name].to(value.dtype)) for name, value in weights.items())
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}
    with pytest.raises(UsageError, match=r"weights '.*weights\.safetensors' of test_resnet cannot be had"):
        build_backbone("test_resnet", BackboneParams(weights=str(path)))


def test_a_file_of_weights_is_known_by_what_it_holds_and_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    first = initial_weights_facts(BackboneParams(weights=str(path)))
    path.write_bytes(b"two")
    assert initial_weights_facts(BackboneParams(weights=str(path))) != first
    assert initial_weights_facts(BackboneParams()) == initial_weights_facts(BackboneParams(weights="imagenet")) == {}
    with pytest.raises(UsageError, match=r"backbone\.weights: .*gone\.safetensors: no such file"):
        initial_weights_facts(BackboneParams(weights=str(tmp_path / "gone.safetensors")))


def test_efficientnet_lite0_stands_for_the_model_whose_weights_are_published() -> None:
    assert timm_name("efficientnet_lite0", BackboneParams()) == "tf_efficientnet_lite0"


def test_weights_come_from_a_file_and_never_from_a_pickle(tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = timm.create_model("test_resnet", num_classes=0)
    path = tmp_path / "weights.safetensors"
    save_file(other.state_dict(), path)
    backbone = build_backbone("test_resnet", BackboneParams(weights=str(path)))
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in other.state_dict().items())
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:5000])
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    for name in ("cut", "other"):
        with pytest.raises(UsageError, match=rf"weights '.*{name}\.safetensors' of test_resnet cannot be had"):
            build_backbone("test_resnet", BackboneParams(weights=str(tmp_path / f"{name}.safetensors")))
    for wrong in (str(tmp_path / "none.safetensors"), str(tmp_path / "weights.pth")):
        with pytest.raises(UsageError, match="cannot be had"):
            build_backbone("test_resnet", BackboneParams(weights=wrong))
