"""Losses between rows: against slow float64 references, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.students.losses.objective import MAGNITUDE_LOSSES, LossParams
from pipeline.students.losses.rowwise import (
    ROWWISE,
    TargetScale,
    angle,
    cosine,
    fd,
    gram,
    measure_targets,
    smooth_l1,
)
from tests import ROOT

UNIT = TargetScale(variance=0.37, dispersion=0.21)


def rows(seed: int, b: int = 9, k: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = np.random.default_rng(seed).standard_normal((2, b, k))
    return torch.from_numpy(drawn[0]), torch.from_numpy(drawn[1])


def reference(name: str, y: np.ndarray, t: np.ndarray) -> float:
    """Each loss from its formula, one pair of numbers at a time."""
    b, k = y.shape
    if name == "fd":
        return sum((y[i, j] - t[i, j]) ** 2 for i in range(b) for j in range(k)) / (b * k) / UNIT.variance
    if name == "smooth_l1":
        gaps = [abs(y[i, j] - t[i, j]) / UNIT.variance**0.5 for i in range(b) for j in range(k)]
        return sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / (b * k)
    cosines = [float(y[i] @ t[i]) / (np.sqrt(y[i] @ y[i]) * np.sqrt(t[i] @ t[i])) for i in range(b)]
    if name == "cosine":
        return 1 - sum(cosines) / b
    if name == "angle":
        return sum(np.arccos(c) ** 2 for c in cosines) / b / UNIT.dispersion
    assert name == "gram", f"write the formula of the loss '{name}' here"
    unit = [x / np.sqrt((x * x).sum(axis=1, keepdims=True)) for x in (y, t)]
    mine, theirs = ([[float(u[i] @ u[j]) for j in range(b)] for i in range(b)] for u in unit)
    middle = sum(map(sum, theirs)) / b**2
    above = sum((mine[i][j] - theirs[i][j]) ** 2 for i in range(b) for j in range(b))
    return above / sum((theirs[i][j] - middle) ** 2 for i in range(b) for j in range(b))


@pytest.mark.parametrize("name", list(ROWWISE))
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_each_loss_equals_its_formula_written_out(name: str, seed: int) -> None:
    y, t = rows(seed)
    assert ROWWISE[name](y, t, UNIT).item() == pytest.approx(reference(name, y.numpy(), t.numpy()), rel=1e-9)


@pytest.mark.parametrize("name", list(ROWWISE))
def test_a_perfect_student_has_nothing_left_to_lose(name: str) -> None:
    _, t = rows(1)
    # arccos is kept 1e-6 inside of 1, where the angle is √2e-6: squared, over the dispersion, 1e-5.
    assert ROWWISE[name](t, t, UNIT).item() == pytest.approx(0, abs=1e-5)


def test_predicting_the_mean_costs_one_in_any_space() -> None:
    t = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 4)) * [0.01, 3, 7, 0.2] + 5)
    assert fd(t.mean(0).expand_as(t), t, measure_targets(t.numpy())).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", ["fd", "smooth_l1", "cosine", "angle", "gram"])
def test_weights_mean_the_same_in_raw_and_scaled_spaces(name: str) -> None:
    """A space that is `c` times as large has the same loss, and a gradient that moves its student as far."""
    c, (y, t) = 16.0, rows(2)
    gradients = []
    for factor in (1.0, c):
        student = (factor * y).requires_grad_()
        loss = ROWWISE[name](student, factor * t, measure_targets((factor * t).numpy()))
        (gradient,) = torch.autograd.grad(loss, student)
        gradients.append(factor * gradient)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    # Negative control: a bare mean square is c² as steep, so one weight cannot serve both.
    plain, scaled = (torch.autograd.grad(functional.mse_loss(f * y.requires_grad_(), f * t), y)[0] for f in (1.0, c))
    assert not torch.allclose(plain, scaled)


@given(seed=st.integers(0, 2**32 - 1), angle_of=st.floats(0.1, 3))
@settings(max_examples=20, deadline=None)
def test_rotating_both_sides_changes_nothing(seed: int, angle_of: float) -> None:
    y, t = rows(seed)
    skew = np.random.default_rng(seed).standard_normal((6, 6)) * angle_of
    rotation = torch.linalg.matrix_exp(torch.from_numpy(skew - skew.T))
    for loss in (fd, cosine, angle, gram):
        assert loss(y @ rotation, t @ rotation, UNIT).item() == pytest.approx(loss(y, t, UNIT).item(), rel=1e-6)
    # Negative control: Huber's loss looks at coordinates, so axes matter to it.
    turned, still = smooth_l1(4 * y @ rotation, 4 * t @ rotation, UNIT), smooth_l1(4 * y, 4 * t, UNIT)
    assert turned.item() != pytest.approx(still.item(), rel=1e-6)


def test_gram_is_blind_to_a_rotation_of_the_student_alone_and_fd_is_not() -> None:
    y, t = rows(3)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((6, 6))))[0]
    assert gram(y @ rotation, t, UNIT).item() == pytest.approx(gram(y, t, UNIT).item(), rel=1e-9)
    assert fd(y @ rotation, t, UNIT).item() != pytest.approx(fd(y, t, UNIT).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [cosine, angle, gram])
def test_directional_losses_do_not_see_length(loss: Callable[..., torch.Tensor]) -> None:
    y, t = rows(4)
    assert loss(7 * y, t, UNIT).item() == pytest.approx(loss(y, t, UNIT).item(), rel=1e-9)


@pytest.mark.parametrize("name", list(ROWWISE))
def test_each_loss_has_a_weight_a_line_in_the_docs_and_its_place_among_those_that_determine_the_norm(name: str) -> None:
    assert name in LossParams.model_fields, "add a field of LossParams"
    y, t = rows(5)
    sees_norm = ROWWISE[name](7 * y, t, UNIT).item() != pytest.approx(ROWWISE[name](y, t, UNIT).item(), rel=1e-9)
    assert sees_norm == (name in MAGNITUDE_LOSSES), "MAGNITUDE_LOSSES must name the losses that see the norm"
    norm = "defined" if sees_norm else "undefined"
    lines = (ROOT / "docs" / "students.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(f"| `{name}` |") and line.endswith(f"| {norm} |") for line in lines)


def test_the_unit_of_angles_is_their_spread_about_the_mean_direction() -> None:
    t = np.array([[1.0, 1.0], [1.0, -1.0]])
    assert measure_targets(t).dispersion == pytest.approx((np.pi / 4) ** 2)
