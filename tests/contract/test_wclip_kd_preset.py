"""The published study as a preset: it loads, it says what was published, and its students can be built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.distill import read_params
from pipeline.embed import EmbedParams
from pipeline.evaluate import EvaluateParams
from pipeline.moments import MomentsParams
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from pipeline.students.losses.rowwise import TargetScale, cosine
from pipeline.students.model import Student
from pipeline.students.text_tower import tokenize
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetParams, fit_space
from tests import ROOT
from tests.factories.embeddings import clip_like

PRESET = ROOT / "presets" / "wclip-kd.yaml"
DIM = 512


@pytest.fixture(scope="module")
def study() -> Project:
    return Project.open(PRESET, (), Path())


def test_every_section_of_the_study_loads(study: Project) -> None:
    text_slice = study.section("embed", EmbedParams).text_slice
    assert text_slice is not None
    assert text_slice.model_dump() == {"width": 384, "layers": 0}
    assert study.section("moments", MomentsParams).captions == "first"
    assert study.section("evaluate", EvaluateParams).rules == ("clip", "whitened")
    assert study.name_list("distill.students") == ["mobilenetv3", "resnet18", "mobilevit"]
    assert Layout().model("resnet18", "zca").name == "resnet18-zca"
    for student in study.name_list("distill.students"):
        params = read_params(study, student)
        assert params.loss.weights == {"cosine": 7.8125, "icl": 1.0, "infonce": 1.0}
        assert (params.loss.temperature, params.training.max_captions, params.training.epochs) == (0.07, 1, 5)
        assert params.student.text is not None
        assert params.student.text.weights == "slice"
        assert params.student.backbone.weights == "imagenet"


def test_the_published_feature_loss_is_this_weight_of_the_cosine(study: Project) -> None:
    v, t = (functional.normalize(torch.randn(9, DIM, dtype=torch.float64), dim=1) for _ in range(2))
    weight = read_params(study, "resnet18").loss.cosine
    published = 2000 * functional.mse_loss(v, t)
    assert weight * cosine(7 * v, t, TargetScale(1, 1)).item() == pytest.approx(published.item(), rel=1e-9)


def test_the_studys_whitening_is_its_formula(study: Project) -> None:
    image, text = clip_like(400, 16)
    moments = estimate_comoments("none", [image], text, np.arange(401))
    space = fit_space("zca", study.section("whiten.zca", TargetParams), moments)
    x = image.astype(np.float64)
    u, s, _ = np.linalg.svd(np.cov(x.T))
    y = (x - x.mean(0)) @ u @ np.diag(1 / np.sqrt(s + 1e-5)) @ u.T
    np.testing.assert_allclose(space.to_target(image), y / np.linalg.norm(y, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("student", ["mobilenetv3", "resnet18", "mobilevit"])
def test_a_student_of_the_published_size_is_built_and_both_towers_meet(study: Project, student: str) -> None:
    """At random weights: published ones are fetched by those who run it."""
    params = read_params(study, student).student
    nothing = {"weights": None}
    assert params.text is not None
    params = params.model_copy(
        update={"backbone": params.backbone.model_copy(update=nothing), "text": params.text.model_copy(update=nothing)}
    )
    torch.manual_seed(0)
    built = Student(student, params, DIM).eval()
    assert built.text is not None
    tokens = torch.from_numpy(tokenize(["Image of a cat", "Image of a dog"], 77)).long()
    with torch.no_grad():
        assert built(torch.zeros(2, 3, 224, 224)).shape == built.text(tokens).shape == (2, DIM)
    # 12 layers of 12 w^2 + 13 w weights, words and places, two last norm's vectors, and the head.
    w = 384
    assert (
        sum(p.numel() for p in cast(Any, built.text).parameters())
        == 12 * (12 * w * w + 13 * w) + (49408 + 77) * w + 2 * w + (w + 1) * DIM
    )
