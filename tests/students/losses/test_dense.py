"""The loss over places: its units, and what it is for a student whose places are its teacher's."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.students.inputs.patch_targets import PatchTargets
from pipeline.students.losses.rowwise import DenseLoss, token_variance


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
    return rows / rows.norm(dim=-1, keepdim=True)


def test_the_mean_token_everywhere_costs_one_and_the_tokens_themselves_nothing() -> None:
    """By the formula: E‖p̂ − p‖²/E‖p − p̄‖²; the mean has to be a unit vector to be sayable, so tokens lie on a cone."""
    around = unit(400, 7)
    tokens = torch.cat([around * 0.6, torch.full((400, 1), 0.8)], dim=1)
    tokens = torch.cat([tokens, tokens * torch.tensor([-1.0] * 7 + [1.0])])  # the mean is the axis alone
    loss = DenseLoss(torch.eye(8), torch.zeros(8), None, token_variance(tokens))
    axis = torch.zeros(1, 800, 8)
    axis[..., 7] = 0.8
    expected = float((tokens - axis[0] / 0.8).square().mean() / (tokens - tokens.mean(0)).square().mean())
    assert abs(loss(axis, tokens[None]).item() - expected) < 1e-5
    assert loss(3 * tokens[None], tokens[None]).item() < 1e-12


def test_outputs_are_unwhitened_before_they_are_held_against_tokens() -> None:
    """Whatever the target space: y = (x − μ)W says the same token, and another space's does not."""
    rng = np.random.default_rng(1)
    forward, mean = rng.standard_normal((6, 6)), rng.standard_normal(6)
    backward = np.linalg.inv(forward)
    x, tokens = rng.standard_normal((2, 4, 6)), unit(2, 4, 6, seed=2)
    loss = DenseLoss(torch.from_numpy(backward), torch.from_numpy(mean), None, 0.1)
    said = torch.from_numpy((x - mean) @ forward).float()
    own = torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True)).float()
    torch.testing.assert_close(loss.tokens(said), own, atol=1e-4, rtol=0)
    assert loss(said, own).item() < 1e-6 < loss(said, tokens).item()


def test_places_that_two_grids_share_are_every_sth_of_the_finer_one() -> None:
    tokens = np.arange(2 * 16 * 3, dtype=np.float32).reshape(2, 16, 3)
    targets = PatchTargets(tokens, 4, None, False)  # type: ignore[arg-type]
    rows = np.array([1, 0])
    same = targets.batch(rows, np.array([False, False]), 4)
    np.testing.assert_array_equal(same, tokens[rows])
    coarse = targets.batch(rows, np.array([False, False]), 2)
    np.testing.assert_array_equal(coarse[0], tokens[1][[0, 2, 8, 10]])
    mirrored = targets.batch(rows, np.array([True, False]), 4)
    np.testing.assert_array_equal(mirrored[0], tokens[1].reshape(4, 4, 3)[:, ::-1].reshape(16, 3))
    np.testing.assert_array_equal(mirrored[1], tokens[0])
