from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS, LedoitWolf

from pipeline.whitening.comoments import Moments
from pipeline.whitening.estimate import estimate_moments
from pipeline.whitening.spectrum import (
    eigendecompose,
    floor_eigenvalues,
    ledoit_wolf,
    oas,
    shrink_covariance,
    shrinkage_weight,
)


def drawn(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_t(5, size=(n, d)) * np.arange(1, d + 1) ** -0.6 + rng.normal(size=d)


@settings(deadline=None, max_examples=50)
@given(n=st.integers(5, 120), d=st.integers(2, 30), parts=st.integers(1, 5), seed=st.integers(0, 20))
def test_streamed_shrinkage_is_that_of_scikit_learn(n: int, d: int, parts: int, seed: int) -> None:
    x = drawn(n, d, seed)
    pieces = [estimate_moments(piece) for piece in np.array_split(x, parts)]
    moments = pieces[0]
    for piece in pieces[1:]:
        moments = moments.merge(piece)
    for mine, theirs in ((ledoit_wolf, LedoitWolf), (oas, OAS)):
        expected = theirs().fit(x)
        weight = mine(moments)
        assert weight == pytest.approx(expected.shrinkage_, rel=1e-10, abs=1e-12)
        # Theirs divides by n and ours by n − 1.
        np.testing.assert_allclose(
            shrink_covariance(moments.covariance, weight) * (n - 1) / n, expected.covariance_, rtol=1e-10, atol=1e-12
        )


def test_shrinkage_is_none_a_number_or_estimated() -> None:
    moments = estimate_moments(drawn(40, 5, 0))
    assert shrinkage_weight(moments, "none") == 0
    assert shrinkage_weight(moments, 0.3) == 0.3
    assert shrinkage_weight(moments, "ledoit-wolf") == ledoit_wolf(moments)
    assert shrinkage_weight(moments, "oas") == oas(moments)


def test_a_sphere_is_shrunk_no_further() -> None:
    sphere = Moments(100, np.zeros(3), 99 * np.eye(3), np.zeros(3), 900.0)
    assert oas(sphere) == 1
    np.testing.assert_allclose(shrink_covariance(sphere.covariance, 0.7), sphere.covariance)


def test_a_spectrum_is_sorted_orthonormal_and_has_the_same_signs_whichever_way_it_was_found() -> None:
    covariance = np.cov(drawn(60, 8, 1), rowvar=False)
    found = eigendecompose(covariance)
    assert (np.diff(found.values) <= 0).all()
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(found.with_eigenvalues(found.values), covariance, atol=1e-12)
    largest = found.vectors[np.abs(found.vectors).argmax(axis=0), np.arange(8)]
    assert (largest > 0).all()
    np.testing.assert_allclose(eigendecompose(covariance[::-1, ::-1]).vectors[::-1], found.vectors, atol=1e-10)


def test_the_floor_is_relative_and_counts_what_it_raised_and_eps_is_absolute() -> None:
    values = np.array([3.0, 0.9, 0.1, 0.0])
    np.testing.assert_allclose(floor_eigenvalues(values, 0.2)[0], [3.0, 0.9, 0.2, 0.2])
    assert floor_eigenvalues(values, 0.2)[1] == 2
    np.testing.assert_allclose(floor_eigenvalues(values * 100, 0.2)[0], floor_eigenvalues(values, 0.2)[0] * 100)
    np.testing.assert_allclose(floor_eigenvalues(values, 0.0, eps=0.05)[0], values + 0.05)
    assert floor_eigenvalues(values, 0.0, eps=0.05)[1] == 0
