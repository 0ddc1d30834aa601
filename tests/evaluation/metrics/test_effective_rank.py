"""Effective ranks and isotropy at their limits, on known spectra, and under the changes they must ignore."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics.effective_rank import (
    components_for_variance,
    entropy_rank,
    isoscore,
    participation_ratio,
    partition_ratio,
    row_spectra,
)


@pytest.mark.parametrize("d", [2, 16, 300])
def test_all_ranks_are_d_for_the_identity_and_one_for_rank_one(d: int) -> None:
    flat, single = np.ones(d), np.eye(d)[0]
    for rank in (entropy_rank, participation_ratio):
        assert rank(flat) == pytest.approx(d)
        assert rank(single) == pytest.approx(1)
    assert isoscore(flat) == pytest.approx(1)
    assert isoscore(single) == pytest.approx(0, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0.01, 100))
def test_no_measure_depends_on_scale_and_the_ranks_keep_their_order(values: list[float], scale: float) -> None:
    spectrum = np.array(values)
    for measure in (entropy_rank, participation_ratio, isoscore):
        assert measure(scale * spectrum) == pytest.approx(measure(spectrum), rel=1e-6, abs=1e-9)
    assert 1 <= participation_ratio(spectrum) <= entropy_rank(spectrum) + 1e-9 <= len(values) + 1e-6


def test_ranks_by_different_names_are_different_numbers() -> None:
    spectrum = np.arange(1, 513) ** -1.15
    found = {entropy_rank(spectrum), participation_ratio(spectrum), entropy_rank(np.sqrt(spectrum))}
    assert max(found) > 5 * min(found)


def test_spectra_are_those_of_numpy_and_the_mean_is_only_in_the_singular_values() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8)) + 3
    found = row_spectra(rows)
    np.testing.assert_allclose(found.eigenvalues, np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1])
    np.testing.assert_allclose(found.singular, np.linalg.svd(rows, compute_uv=False))
    moved = row_spectra(rows - 3)
    np.testing.assert_allclose(moved.eigenvalues, found.eigenvalues)
    # The offset takes most of the uncentred rank: a student without it seems richer only by centring.
    assert found.summary()["rankme"] < moved.summary()["rankme"] - 0.5
    assert found.summary()["rankme_centered"] == pytest.approx(moved.summary()["rankme_centered"])


def test_isoscore_of_half_the_axes_is_about_half() -> None:
    d = 400
    assert isoscore(np.repeat([1.0, 0.0], d // 2)) == pytest.approx(0.5, abs=0.01)


def test_partition_ratio_is_one_for_symmetric_axes_and_small_for_a_cone() -> None:
    axes = np.concatenate([np.eye(6), -np.eye(6)])
    assert partition_ratio(axes) == pytest.approx(1)
    assert partition_ratio(np.random.default_rng(0).normal(size=(100, 6)) * 0.1 + 1) < 0.5


def test_dims_for_a_share_and_dead_dimensions_are_counted() -> None:
    assert components_for_variance(np.array([8.0, 1, 1]), 0.8) == 1
    assert components_for_variance(np.array([8.0, 1, 1]), 0.9) == 2
    assert components_for_variance(np.ones(10), 1.0) == 10
    rows = np.random.default_rng(0).normal(size=(30, 5))
    rows[:, 2] = 7
    assert row_spectra(rows).summary()["dead_dims"] == 1
