"""What a model costs, against what can be counted by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pipeline.commands.profile import profile
from pipeline.deployment.cost import latency, macs, parameter_count, torch_latency
from pipeline.project.layout import Layout


def test_macs_of_a_convolution_and_a_linear_layer_are_those_of_the_textbook() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    assert macs(model, 16) == 3 * 8 * 9 * 16 * 16 + 8 * 16 * 16 * 10
    assert parameter_count(model) == 3 * 8 * 9 + 8 * 16 * 16 * 10 + 10


def test_latency_is_a_median_and_a_95th_percentile_and_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    found = torch_latency(nn.Conv2d(3, 4, 3), 16, threads=1)
    assert 0 < found.median <= found.p95
    assert torch.get_num_threads() == before
    calls: list[int] = []
    latency(lambda: calls.append(1), threads=1, runs=10)
    assert len(calls) == 15


@pytest.mark.project(students=("test_resnet",))
def test_a_finished_arm_gets_a_profile_beside_its_weights(project_copy: Layout) -> None:
    layout = project_copy
    costs = profile([("test_resnet", "raw"), ("test_resnet", "gone")], layout, None)
    assert [cost.form for cost in costs] == ["torch fp32"]
    written = json.loads((layout.model("test_resnet", "raw") / "profile.json").read_text())["costs"]
    assert written[0]["parameters"] == costs[0].parameters
    assert written[0]["macs"] == pytest.approx(costs[0].macs)
