from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.diagnostics import (
    _bfloat16,
    axis_correlation,
    condition_number,
    round_trip_error,
    split_half_distance,
    storage_noise,
)
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetParams, TargetSpace, fit_space
from tests.factories.embeddings import clip_like

N = 1500
HELD = clip_like(200, seed=5)[0]


def moments(n: int = N, seed: int = 0) -> CoMoments:
    image, text = clip_like(n, seed=seed)
    return estimate_comoments("none", [image], text, np.arange(n + 1))


def space(n: int = N, seed: int = 0, **params: object) -> TargetSpace:
    return fit_space("mine", TargetParams.model_validate({"pre_norm": "none", **params}), moments(n, seed))


def test_nothing_is_lost_there_and_back_but_what_was_cut_or_shortened() -> None:
    assert round_trip_error(space(method="zca"), HELD) < 1e-10
    cut = space(method="pca", components=8)
    values = cut.image.eigenvalues
    assert round_trip_error(cut, HELD) == pytest.approx(values[8:].sum() / values.sum(), rel=0.2)
    assert 0.01 < round_trip_error(space(method="zca", post_norm="l2"), HELD) < 0.2


def test_halves_that_are_too_small_fit_different_spaces() -> None:
    large, small = (
        split_half_distance(space(n, 1, method="zca", floor=0), space(n, 2, method="zca", floor=0), HELD)
        for n in (4000, 40)
    )
    assert large < 0.01
    assert small > 10 * large
    assert split_half_distance(space(method="zca"), space(method="zca"), HELD) == 0


def test_axes_that_may_turn_are_less_stable_than_those_that_stay() -> None:
    pca, zca = (split_half_distance(space(500, 1, method=m), space(500, 2, method=m), HELD) for m in ("pca", "zca"))
    assert pca > 3 * zca


def test_condition_is_that_of_the_floored_spectrum() -> None:
    values = space(method="zca").image.eigenvalues
    lowest = np.maximum(values, 0.5 * values.mean()).min()
    assert condition_number(space(method="zca", floor=0.5)) == pytest.approx(values.max() / lowest)
    assert condition_number(space(method="scale")) == pytest.approx(1)


def test_bfloat16_rounds_as_torch_does() -> None:
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32) * np.logspace(-3, 3, 8, dtype=np.float32)
    np.testing.assert_array_equal(_bfloat16(x), torch.from_numpy(x).bfloat16().float().numpy())


def test_half_precision_drowns_directions_of_low_variance_and_leaves_the_others() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    deviations = np.where(np.arange(16) < 12, 1.0, 3e-4)
    x = ((rng.normal(size=(4000, 16)) * deviations) @ turn + 1).astype(np.float32)
    half, brain = storage_noise(x, estimate_comoments("none", [x]).image.covariance, "none")
    assert (half.axes, half.above_tenth, brain.above_tenth) == (16, 4, 4)
    assert brain.worst > 30 * half.worst  # three bits fewer: 64 times the variance
    # Negative control: without the small directions nothing is lost to float16.
    fine = (rng.normal(size=(4000, 16)) + 1).astype(np.float32)
    assert storage_noise(fine, estimate_comoments("none", [fine]).image.covariance, "none")[0].worst < 1e-5


def test_images_and_texts_agree_on_the_first_axes_more_than_on_the_last() -> None:
    found = axis_correlation(moments(20_000))
    np.testing.assert_allclose(found, np.linspace(0.8, 0.2, 16), atol=0.05)  # as they were drawn
    shuffled = clip_like(20_000)
    alone = axis_correlation(estimate_comoments("none", [shuffled[0][::-1]], shuffled[1], np.arange(20_001)))
    assert np.abs(alone).max() < 0.05
    assert axis_correlation(estimate_comoments("none", [HELD])).size == 0
