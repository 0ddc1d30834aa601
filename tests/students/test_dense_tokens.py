"""A student's tokens: its head at every place, tied to the embedding it gives anyway."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from pipeline.project.errors import UsageError
from pipeline.students.backbones import BackboneParams
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import embed_pixels
from pipeline.students.model import Student, StudentParams
from pipeline.students.towers import HeadParams


def student(name: str, **params: object) -> Student:
    torch.manual_seed(0)
    return Student(name, StudentParams(**params), 24).eval()  # type: ignore[arg-type]


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)


def test_the_mean_of_a_students_places_is_its_embedding() -> None:
    one, seen = student("resnet-tiny"), pixels()
    with torch.inference_mode():
        from pipeline.students.model import normalize_pixels

        features = cast(Any, one.backbone).forward_features(normalize_pixels(torch.from_numpy(seen), *one.mean_std))
        tokens = one.project(features.flatten(2).transpose(1, 2).flatten(0, 1)).view(3, 4, 24)
    np.testing.assert_allclose(tokens.mean(dim=1).numpy(), embed_pixels(one, seen), atol=1e-5)
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(embed_places(one, seen, 2), unit.numpy(), atol=1e-5)


@pytest.mark.parametrize(("name", "stem_stride", "own"), [("resnet-tiny", 2, 2), ("resnet18", 1, 4)])
def test_a_finer_grid_says_the_same_at_the_places_it_shares(name: str, stem_stride: int, own: int) -> None:
    one, seen = student(name, backbone=BackboneParams.model_validate({"stem_stride": stem_stride})), pixels()
    coarse = embed_places(one, seen, own).reshape(3, own, own, 24)
    fine = embed_places(one, seen, 8).reshape(3, 8, 8, 24)
    step = 8 // own
    np.testing.assert_allclose(fine[:, ::step, ::step], coarse, atol=1e-4)
    assert np.abs(fine[:, 1::step, 1::step] - coarse).max() > 0.01


def test_a_student_that_pools_otherwise_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="student 'mobilenetv3': no tokens: its features are not the mean"):
        embed_places(student("mobilenetv3"), pixels(), 8)
    with pytest.raises(UsageError, match="student 'resnet-tiny': no tokens: it needs a convolutional backbone"):
        embed_places(student("resnet-tiny", head=HeadParams(kind="mlp")), pixels(), 8)
