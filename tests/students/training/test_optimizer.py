"""Learning rates over a run, and which weights decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.project.errors import UsageError
from pipeline.students.model import normalize_pixels
from pipeline.students.training.optimizer import build_optimizer, learning_rate_at
from pipeline.students.training.params import TrainingParams
from tests.factories.students import made_feed, trained

SCHEDULES = st.sampled_from(["cosine", "linear", "constant"])


@given(steps=st.integers(2, 500), warmup=st.floats(0, 0.9), schedule=SCHEDULES)
def test_the_rate_rises_once_and_then_never_rises(steps: int, warmup: float, schedule: Any) -> None:
    rates = [learning_rate_at(schedule, 0.7, step, steps, warmup) for step in range(steps)]
    top = next((i for i in range(steps) if i >= warmup * steps), steps)
    assert all(0 < r <= 0.7 for r in rates)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert schedule != "constant" or rates[top:] == [0.7] * (steps - top)


def test_half_way_down_the_cosine_is_half_the_peak() -> None:
    assert learning_rate_at("cosine", 2.0, 55, 100, 0.1) == pytest.approx(1.0)
    assert learning_rate_at("linear", 2.0, 55, 100, 0.1) == pytest.approx(1.0)
    assert learning_rate_at("constant", 2.0, 99, 100, 0.1) == 2.0


def test_only_the_backbones_matrices_decay() -> None:
    backbone, head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Linear(4, 2)
    with torch.no_grad():
        for parameter in [*backbone.parameters(), *head.parameters()]:
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    build_optimizer("adamw", [backbone], (backbone, head), 0.1, 0.5).step()
    assert torch.allclose(cast(Any, backbone)[0].weight, torch.tensor(0.95))
    convolution, norm = cast(Any, backbone)
    for untouched in (convolution.bias, norm.weight, head.weight, head.bias):
        assert torch.equal(untouched, torch.ones_like(untouched))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_with_relative_head_steps_the_unit_of_the_targets_decides_nothing(optimizer: str, tmp_path: Path) -> None:
    """Independent oracle: the student of targets c·y is c times the student of y, whatever c."""

    def outputs(scale: float, head_steps: str) -> torch.Tensor:
        feed = made_feed(scale=scale)
        student, _ = trained(
            tmp_path / "state", feed=feed, optimizer=optimizer, weight_decay=0.0, head_steps=head_steps, epochs=4
        )
        with torch.no_grad():
            return student(normalize_pixels(feed.batch_at(0).pixels, *student.mean_std)) / scale

    plain = outputs(1.0, "relative")
    tolerance = 0.02 * plain.std().item()  # twelve steps of float32, and Adam's epsilon
    assert (outputs(1 / 16, "relative") - plain).abs().max().item() < tolerance
    # Negative control: with absolute steps the two are different students.
    assert (outputs(1 / 16, "absolute") - outputs(1.0, "absolute")).abs().max().item() > 5 * tolerance


def test_relative_head_steps_are_refused_where_nobody_knows_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"head_steps: relative is known for adam, .*found optimizer: lamb"):
        trained(tmp_path / "state", optimizer="lamb", head_steps="relative")


def test_an_option_that_came_later_changes_no_fingerprint_where_it_is_not_used() -> None:
    assert "head_steps" not in TrainingParams().model_dump(mode="json")
    assert TrainingParams(head_steps="relative").model_dump(mode="json")["head_steps"] == "relative"


def test_an_unknown_optimizer_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="no optimizer 'adamv'; did you mean"):
        build_optimizer("adamv", [], [nn.Linear(1, 1)], 0.1, 0.0)
