"""Geometry against brute force, closed forms and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cache.normalization import l2_normalize
from pipeline.evaluation.metrics.geometry import (
    auc,
    conformity,
    cross_modal,
    norm_statistics,
    probe_auc,
    spearman,
    uniformity,
    unimodal,
)


def cones(seed: int = 0, n: int = 200, d: int = 16, far: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their captions, each in a cone of its own."""
    rng = np.random.default_rng(seed)
    meaning, apart = rng.normal(size=(n, d)), np.eye(d)[:2] * far * np.sqrt(d)
    image, text = (meaning + 0.5 * rng.normal(size=(n, d)) + offset for offset in apart)
    return l2_normalize(image), l2_normalize(text)


def centered(image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return l2_normalize(image - image.mean(axis=0)), l2_normalize(text - text.mean(axis=0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 9))
def test_conformity_in_closed_form_is_the_mean_cosine_over_all_others(seed: int, n: int, d: int) -> None:
    rows = l2_normalize(np.random.default_rng(seed).normal(size=(n, d)))
    brute = [np.mean([rows[j] @ rows[k] for k in range(n) if k != j]) for j in range(n)]
    np.testing.assert_allclose(conformity(rows), brute, atol=1e-6)


def test_uniformity_is_the_mean_over_pairs_and_that_of_a_uniform_sphere_is_known() -> None:
    rows = l2_normalize(np.random.default_rng(0).normal(size=(20, 5)))
    pairs = [np.exp(-2 * np.sum((a - b) ** 2)) for a, b in itertools.combinations(rows.astype(np.float64), 2)]
    assert uniformity(rows) == pytest.approx(np.log(np.mean(pairs)))
    d = 256
    sphere = l2_normalize(np.random.default_rng(1).normal(size=(1500, d)))
    assert uniformity(sphere) == pytest.approx(-4 + 8 / d, abs=2e-3)  # next term of the series: O(1/d²)
    assert uniformity(np.repeat(sphere[:1], 5, axis=0)) == pytest.approx(0, abs=1e-6)


def test_centering_each_modality_closes_the_gap_by_construction_but_not_what_neighbors_see() -> None:
    image, text = cones(far=2.0)
    raw, control = cross_modal(image, text), cross_modal(*centered(image, text))
    assert raw["modality_gap"] > 1
    assert control["modality_gap"] < 0.1
    assert raw["cross_neighbors"] < 0.05
    assert control["cross_neighbors"] > 0.3


def test_the_probe_tells_two_cones_apart_and_cannot_tell_one_cone_from_itself() -> None:
    image, text = cones(far=2.0)
    assert probe_auc(image, text) > 0.99
    same = l2_normalize(np.random.default_rng(3).normal(size=(2000, 16)))
    # Standard error of an area from 500 against 500 rows, twice: about 0.013.
    assert probe_auc(same[:1000], same[1000:]) == pytest.approx(0.5, abs=0.05)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_area_is_scikit_learn_s_with_ties(low: list[int], high: list[int]) -> None:
    expected = roc_auc_score([0] * len(low) + [1] * len(high), low + high)
    assert auc(np.array(low, float), np.array(high, float)) == pytest.approx(expected)


def test_alignment_and_dprime_see_the_pairing() -> None:
    image, text = cones(far=0.0)
    paired, strangers = cross_modal(image, text), cross_modal(image, text[::-1])
    expected = np.mean(np.sum((image.astype(np.float64) - text) ** 2, axis=1))
    assert paired["alignment"] == pytest.approx(expected, rel=1e-5)
    assert paired["matched_dprime"] > 3
    assert abs(strangers["matched_dprime"]) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_nothing_changes_under_a_common_rotation(seed: int) -> None:
    image, text = cones(seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))[0].astype(np.float32)
    before, after = cross_modal(image, text), cross_modal(image @ turn, text @ turn)
    assert after == pytest.approx(before, abs=5e-3)  # neighbours that tie in float32 may change places
    assert unimodal(image @ turn) == pytest.approx(unimodal(image), abs=1e-5)


def test_spearman_is_scipy_s() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    ties = np.round(2 * x)
    assert spearman(ties, y) == pytest.approx(spearmanr(ties, y).statistic)
    # Negative control: ranks that break ties by their place say something else.
    broken = np.corrcoef(np.argsort(np.argsort(ties)), np.argsort(np.argsort(y)))[0, 1]
    assert abs(broken - spearman(ties, y)) > 1e-3


def test_what_is_the_same_everywhere_has_no_rank_correlation() -> None:
    x = np.random.default_rng(0).normal(size=50)
    noise = 1e-15 * np.random.default_rng(1).normal(size=50)
    assert np.isnan(spearman(np.full(50, 0.3), x))
    assert np.isnan(spearman(x, 0.3 + noise))
    assert spearman(x, 0.3 + 1e-3 * x) == pytest.approx(1)


def test_a_shell_is_thin_in_many_dimensions_and_its_mean_is_seen() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 400))
    found = norm_statistics(rows)
    assert found["mean_length"] == pytest.approx(np.sqrt(400), rel=2e-3)
    assert found["relative_spread"] == pytest.approx(np.sqrt(0.5 / 400), rel=0.05)  # chi has sd √½
    assert found["mean_share"] < 0.01
    assert norm_statistics(rows + 1)["mean_share"] == pytest.approx(0.5, abs=0.01)
