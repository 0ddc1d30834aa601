from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.project.errors import PipelineError
from pipeline.whitening import estimate as measuring
from pipeline.whitening.comoments import CoMoments, CrossMoments, Moments
from pipeline.whitening.estimate import estimate_comoments, estimate_moments

TOLERANCE = 1e-12
"""Relative to the largest entry: float64 sums of some hundred terms lose three digits of sixteen."""


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows with a mean as large as their spread and very unequal axes, as CLIP's are."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.logspace(0, -3, d) + rng.normal(size=d)).astype(np.float32)


def captioned(counts: np.ndarray, d: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return rows(int(counts.sum()), d, seed), np.concatenate([[0], np.cumsum(counts)])


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.integers(1, 12), st.lists(st.integers(0, 200), max_size=6), st.integers(0, 9))
def test_moments_are_those_of_numpy_for_any_chunking_and_order(n: int, d: int, cuts: list[int], seed: int) -> None:
    x = rows(n, d, seed).astype(np.float64)
    pieces = [estimate_moments(piece) for piece in np.split(x, sorted(min(cut, n) for cut in cuts))]
    order = np.random.default_rng(seed).permutation(len(pieces))
    merged = functools.reduce(Moments.merge, [pieces[i] for i in order])

    centered = x - x.mean(axis=0)
    squares = np.sum(centered**2, axis=1)
    assert merged.count == n
    assert_near(merged.mean, x.mean(axis=0))
    assert_near(merged.covariance, np.cov(x, rowvar=False).reshape(d, d))
    assert merged.quartic == pytest.approx(np.sum(squares**2), rel=1e-11)
    np.testing.assert_allclose(merged.cubic, squares @ centered, rtol=0, atol=1e-11 * np.sum(squares**1.5))


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=30), views=st.integers(1, 3), block=st.integers(1, 40))
def test_pairs_are_every_caption_beside_every_view_of_its_own_image(counts: list[int], views: int, block: int) -> None:
    x = [rows(len(counts), 4, seed=v) for v in range(views)]
    text, offsets = captioned(np.array(counts), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "BLOCK_ROWS", block)
        found = estimate_comoments("none", x, text, offsets)

    owner = np.repeat(np.arange(len(counts)), counts)
    left = np.concatenate([v[owner] for v in x]).astype(np.float64)  # the pairs, written out
    right = np.concatenate([text] * views).astype(np.float64)
    assert found.image.count == views * len(counts)
    assert found.text is not None
    assert found.text.count == len(text)
    assert found.cross is not None
    assert found.cross.count == len(left)
    if len(left):
        expected = (left - left.mean(axis=0)).T @ (right - right.mean(axis=0))
        np.testing.assert_allclose(found.cross.scatter, expected, rtol=0, atol=1e-11)
        assert_near(found.cross.image_mean, left.mean(axis=0))
        assert_near(found.cross.text_mean, found.text.mean)


def test_images_without_captions_have_no_text_and_still_merge_with_others() -> None:
    alone = estimate_comoments("none", [rows(5, 4)])
    text, offsets = captioned(np.array([1, 2]), 4)
    both = alone.merge(estimate_comoments("none", [rows(2, 4, seed=3)], text, offsets))
    assert alone.text is None
    assert both.image.count == 7
    assert both.text is not None
    assert both.text.count == 3


def test_shards_of_paired_rows_give_the_same_as_one_array() -> None:
    counts = np.array([5, 5, 1, 0, 5, 2, 5])
    x, (text, offsets) = rows(7, 6), captioned(counts, 6)
    whole = estimate_comoments("l2", [x], text, offsets)
    cut = [(0, 3), (3, 4), (4, 7)]
    shards = [
        estimate_comoments("l2", [x[a:b]], text[offsets[a] : offsets[b]], offsets[a : b + 1] - offsets[a])
        for a, b in cut
    ]
    merged = functools.reduce(CoMoments.merge, reversed(shards))
    assert whole.text is not None
    assert merged.text is not None
    assert whole.cross is not None
    assert merged.cross is not None
    assert_near(merged.image.scatter, whole.image.scatter)
    assert_near(merged.text.scatter, whole.text.scatter)
    assert_near(merged.cross.scatter, whole.cross.scatter)
    # Negative control: captions shifted by one image are other pairs.
    shifted = estimate_comoments("l2", [np.roll(x, 1, axis=0)], text, offsets)
    assert shifted.cross is not None
    assert np.abs(shifted.cross.scatter - whole.cross.scatter).max() > 1e-3


def test_a_mean_ten_thousand_times_the_spread_costs_no_digits() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 5)) + 1e4
    merged = functools.reduce(Moments.merge, map(estimate_moments, np.split(x, 40)))
    expected = np.cov(x, rowvar=False)
    naive = (x.astype(np.float32).T @ x.astype(np.float32)) / len(x) - np.outer(x.mean(axis=0), x.mean(axis=0))
    assert_near(merged.covariance, expected, 1e-11)
    # Negative control: E[xxᵀ] − μμᵀ in float32 has no correct digit left.
    assert np.abs(naive - expected).max() > 0.5


def test_l2_divides_each_row_by_its_length_before_anything_else() -> None:
    x = rows(50, 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).astype(np.float64)
    assert_near(
        estimate_comoments("l2", [x]).image.covariance, np.cov(unit, rowvar=False), 1e-6
    )  # x/‖x‖ in float32 above
    assert np.trace(estimate_comoments("l2", [x]).image.scatter) < np.trace(
        estimate_comoments("none", [x]).image.scatter
    )


def test_a_row_of_length_zero_cannot_be_normalized_and_says_which() -> None:
    x = rows(5, 4)
    x[3] = 0
    with pytest.raises(PipelineError, match="row 3 of 5"):
        estimate_comoments("l2", [x])
    assert estimate_comoments("none", [x]).image.count == 5


def test_empty_sets_are_neutral_in_a_merge() -> None:
    full, empty = estimate_moments(rows(3, 2).astype(np.float64)), estimate_moments(np.zeros((0, 2)))
    assert full.merge(empty) is full
    assert empty.merge(full) is full
    pairs = CrossMoments(2, np.ones(2), np.ones(2), np.ones((2, 2)))
    none = CrossMoments(0, np.zeros(2), np.zeros(2), np.zeros((2, 2)))
    assert pairs.merge(none) is pairs
    assert none.merge(pairs) is pairs
