"""Students: what they say, and that folding the way back to CLIP space changes nothing they say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.students.model import Student, normalize_pixels
from pipeline.students.towers import last_layer
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetParams, TargetSpace, fit_space
from tests.factories.embeddings import clip_like
from tests.factories.students import DIM, made_student


def made_space(post_norm: str = "none") -> TargetSpace:
    image, text = clip_like(200, DIM)
    moments = estimate_comoments("l2", [image], text, np.arange(201))
    return fit_space(
        "zca",
        TargetParams.model_validate({"method": "zca", "floor": 0.01, "pre_norm": "l2", "post_norm": post_norm}),
        moments,
    )


def pixels(n: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, 3, 32, 32)).astype(np.float32))


def folded(student: Student, space: TargetSpace) -> Student:
    student = copy.deepcopy(student)
    student.fold_unwhitening(torch.from_numpy(space.image.backward), torch.from_numpy(space.image.mean))
    return student


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_folding_equals_unwhitening_outside(kind: str) -> None:
    student, space = made_student(head={"kind": kind, "hidden": 9}).eval(), made_space()
    with torch.no_grad():
        outside = space.to_embedding(student(pixels()).numpy())
        inside = folded(student, space)(pixels()).numpy()
    np.testing.assert_allclose(inside, outside, atol=1e-5)
    # It costs nothing: no layer more than before.
    assert sum(p.numel() for p in folded(student, space).parameters()) == sum(p.numel() for p in student.parameters())


@pytest.mark.parametrize("post_norm", ["none", "l2"])
def test_folding_where_length_is_undefined_normalizes_first(post_norm: str) -> None:
    student, space = made_student().eval(), made_space(post_norm)
    with torch.no_grad():
        said = student(pixels()).numpy()
        outside = space.image.invert(space.image.rms_norm * said / np.linalg.norm(said, axis=1, keepdims=True))
        student.radius = space.image.rms_norm
        inside = folded(student, space)(pixels()).numpy()
        np.testing.assert_allclose(inside, outside, atol=1e-5)
        if post_norm == "l2":
            np.testing.assert_allclose(inside, space.to_embedding(said), atol=1e-5)


def test_a_longer_head_changes_a_student_only_where_length_is_defined() -> None:
    """The control of the control: × 7 is invisible exactly where the losses could not see it."""
    space = made_space()
    for radius, visible in ((None, True), (space.image.rms_norm, False)):
        student = made_student().eval()
        student.radius = radius
        longer = copy.deepcopy(student)
        layer = last_layer(longer.head)
        layer.weight.data.mul_(7)
        layer.bias.data.mul_(7)
        with torch.no_grad():
            a, b = folded(student, space)(pixels()), folded(longer, space)(pixels())
        assert torch.allclose(a, b, atol=1e-5) != visible


def test_pixels_are_normalized_as_the_backbone_was_made_for() -> None:
    bytes_ = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = ((bytes_ / 255 - mean) / std).transpose(0, 3, 1, 2)
    found = normalize_pixels(torch.from_numpy(bytes_), mean, std)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
