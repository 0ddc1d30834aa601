from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics.calibration import LARGEST, cross_entropy, fit_pair_logit_scale


def pairs(n: int, noise: float, seed: int, d: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(n, d))
    both = image, image + noise * rng.normal(size=(n, d))
    return tuple((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in both)


@settings(deadline=None, max_examples=15)
@given(noise=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_the_fitted_scale_is_no_worse_than_any_of_a_grid(noise: float, seed: int) -> None:
    image, text = pairs(60, noise, seed)
    scores = (image @ text.T).astype(np.float64)
    found = cross_entropy(scores, fit_pair_logit_scale(image, text))
    assert found <= min(cross_entropy(scores, scale) for scale in np.geomspace(0.1, LARGEST, 200)) + 1e-6


def test_the_loss_is_clips_own() -> None:
    image, text = pairs(40, 1.0, 0)
    scores = torch.from_numpy((image @ text.T).astype(np.float64))
    target = torch.arange(40)
    loss = torch.nn.functional.cross_entropy
    expected = (loss(7 * scores, target) + loss(7 * scores.T, target)) / 2
    assert cross_entropy(scores.numpy(), 7.0) == pytest.approx(float(expected), rel=1e-12)


def test_squeezing_all_rows_into_a_cone_asks_for_a_larger_scale() -> None:
    image, text = pairs(80, 1.0, 1)
    cone = np.full(24, 2.0, np.float32)
    narrow = [(rows + cone) / np.linalg.norm(rows + cone, axis=1, keepdims=True) for rows in (image, text)]
    assert fit_pair_logit_scale(*narrow) > 5 * fit_pair_logit_scale(image, text)


def test_unrelated_pairs_want_no_scale_at_all() -> None:
    image, text = pairs(200, 1e6, 2)
    assert fit_pair_logit_scale(image, text) < 3
