"""Learning rates over a run, and which weights decay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.project.errors import UsageError
from pipeline.students.optim import build_optimizer, rate

SCHEDULES = st.sampled_from(["cosine", "linear", "constant"])


@given(steps=st.integers(2, 500), warmup=st.floats(0, 0.9), schedule=SCHEDULES)
def test_the_rate_rises_once_and_then_never_rises(steps: int, warmup: float, schedule: str) -> None:
    rates = [rate(schedule, 0.7, step, steps, warmup) for step in range(steps)]
    top = next((i for i in range(steps) if i >= warmup * steps), steps)
    assert all(0 < r <= 0.7 for r in rates)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert schedule != "constant" or rates[top:] == [0.7] * (steps - top)


def test_half_way_down_the_cosine_is_half_the_peak() -> None:
    assert rate("cosine", 2.0, 55, 100, 0.1) == pytest.approx(1.0)
    assert rate("linear", 2.0, 55, 100, 0.1) == pytest.approx(1.0)
    assert rate("constant", 2.0, 99, 100, 0.1) == 2.0


def test_only_the_backbones_matrices_decay() -> None:
    backbone, head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Linear(4, 2)
    with torch.no_grad():
        for parameter in [*backbone.parameters(), *head.parameters()]:
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    build_optimizer("adamw", [backbone], (backbone, head), 0.1, 0.5).step()
    assert torch.allclose(backbone[0].weight, torch.tensor(0.95))
    for untouched in (backbone[0].bias, backbone[1].weight, head.weight, head.bias):
        assert torch.equal(untouched, torch.ones_like(untouched))


def test_an_unknown_optimiser_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="no optimiser 'adamv'; did you mean"):
        build_optimizer("adamv", [], [nn.Linear(1, 1)], 0.1, 0.0)
