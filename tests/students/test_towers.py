"""Heads: they start where the targets are, whatever the features and the space."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from pipeline.students.towers import HeadParams, build_head, init_head, last_layer

HeadKind = Literal["linear", "mlp"]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 40.0])
def test_a_head_starts_with_the_targets_mean_and_variance(kind: HeadKind, spread: float) -> None:
    torch.manual_seed(0)
    features = spread * torch.randn(400, 12).exp()
    mean = torch.linspace(-2, 5, 7)
    head = build_head(12, 7, HeadParams(kind=kind, hidden=20))
    init_head(head, features, mean, variance=0.3)
    out = head(features)
    torch.testing.assert_close(out.mean(0), mean, rtol=1e-4, atol=1e-4)
    assert out.var(0, correction=0).mean().item() == pytest.approx(0.3, rel=1e-4)


def test_features_that_do_not_vary_leave_the_head_finite() -> None:
    head = build_head(5, 3, HeadParams())
    init_head(head, torch.zeros(8, 5), torch.ones(3), variance=1.0)
    torch.testing.assert_close(head(torch.zeros(8, 5)), torch.ones(8, 3))


def test_a_head_that_does_not_end_in_a_linear_layer_is_not_one() -> None:
    with pytest.raises(TypeError, match="not in ReLU"):
        last_layer(torch.nn.Sequential(torch.nn.ReLU()))
