"""Log-likelihood against scipy, and the law of held-out lengths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

from pipeline.evaluation.metrics.likelihood import fit_gaussian, radial_fit, radius_quantiles
from pipeline.whitening.estimate import estimate_moments


def gaussian(n: int, d: int, seed: int) -> np.ndarray:
    mix = np.random.default_rng(99).normal(size=(d, d)) * np.arange(1, d + 1) ** -0.6
    return np.random.default_rng(seed).normal(size=(n, d)) @ mix.T + 2


def test_log_likelihood_is_the_density_of_x_with_its_determinant() -> None:
    train, held_out = gaussian(500, 6, 0), gaussian(50, 6, 1)
    model = fit_gaussian(estimate_moments(train), 0.0)
    found = model.log_likelihood(held_out)
    expected = multivariate_normal(train.mean(axis=0), np.cov(train.T)).logpdf(held_out)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    # Negative control: without the determinant it would be the density of y.
    of_y = -0.5 * (6 * np.log(2 * np.pi) + model.squared_radius(held_out))
    assert abs(found.mean() - of_y.mean()) > 0.5


def test_held_out_lengths_of_gaussian_rows_follow_hotelling_s_law_even_for_few_rows() -> None:
    d, n = 40, 160
    model = fit_gaussian(estimate_moments(gaussian(n, d, 0)), 0.0)
    law = radial_fit(model, gaussian(4000, d, 1))
    # One fit decides all 4,000 lengths: over fits, the mean of ‖y‖²/k has sd of about √(2/(kn)) · 1.5.
    assert law["mean_over_k"] == pytest.approx(law["expected_over_k"], rel=0.06)
    assert law["expected_over_k"] > 1.3
    assert law["ks"] < 0.12


def test_in_sample_lengths_have_mean_k_by_construction_and_prove_nothing() -> None:
    train = np.random.default_rng(0).standard_t(3, size=(200, 30))
    square = fit_gaussian(estimate_moments(train), 0.0).squared_radius(train)
    assert square.mean() == pytest.approx(30 * 199 / 200)  # d(n − 1)/n for any distribution whatever


def test_rows_that_are_not_gaussian_are_seen_by_their_lengths() -> None:
    rng = np.random.default_rng(0)
    scale = rng.gamma(2, 1, size=(8000, 1))
    rows = rng.normal(size=(8000, 20)) * scale
    law = radial_fit(fit_gaussian(estimate_moments(rows[:6000]), 0.0), rows[6000:])
    assert law["p"] < 1e-6
    assert law["radius_sd"] > 1.5  # of a Gaussian: √½
    assert law["mardia"] > 1.5


def test_axes_below_the_floor_take_no_part() -> None:
    rows = gaussian(300, 5, 0)
    rows[:, 4] = rows[:, 0] + 1e-5 * np.random.default_rng(1).normal(size=300)
    assert len(fit_gaussian(estimate_moments(rows), 0.01).values) < len(
        fit_gaussian(estimate_moments(rows), 0.0).values
    )


def test_quantiles_of_radii_lie_on_the_diagonal_for_gaussian_rows() -> None:
    model = fit_gaussian(estimate_moments(gaussian(20_000, 12, 0)), 0.0)
    found = radius_quantiles(model, gaussian(20_000, 12, 1))
    assert found.shape == (99, 3)
    np.testing.assert_allclose(found[:, 1], found[:, 2], rtol=0.02)


def test_with_fewer_rows_than_axes_there_is_no_law_and_none_is_claimed() -> None:
    model = fit_gaussian(estimate_moments(gaussian(8, 12, 0)), 0.0)
    assert "ks" not in radial_fit(model, gaussian(20, 12, 1)) or model.rows > len(model.values) + 2


def decaying(n: int, seed: int, d: int = 32) -> np.ndarray:
    return np.random.default_rng([n, seed]).normal(size=(n, d)) / np.arange(1, d + 1)


def test_too_few_rows_offer_no_test_and_a_floor_no_law_that_normal_rows_would_fail() -> None:
    """Two rows a dimension: truly normal rows, whose axes the floor chose by the eigenvalues of these very rows."""
    law = radial_fit(fit_gaussian(estimate_moments(decaying(64, 0)), 0.01), decaying(300, 1))
    assert law["axes"] < 32
    assert {"expected_over_k", "ks", "p"}.isdisjoint(law)
    assert np.isnan(
        radius_quantiles(fit_gaussian(estimate_moments(decaying(64, 0)), 0.01), decaying(300, 1))[:, 2]
    ).all()
    # Without a floor each row follows the law, but not all of them together: a distance, and no test.
    law = radial_fit(fit_gaussian(estimate_moments(decaying(64, 0)), 0.0), decaying(300, 1))
    assert "expected_over_k" in law
    assert "p" not in law


def hotelling_p(n: int, seed: int) -> float:
    """Return the p-value of 200 truly normal rows under the law of a fit to n others, written out."""
    model = fit_gaussian(estimate_moments(decaying(n, 2 * seed)), 0.01)
    k, square = len(model.values), model.squared_radius(decaying(200, 2 * seed + 1))
    return float(kstest(square * n * (n - k) / ((n**2 - 1) * k), "f", args=(k, n - k)).pvalue)


def test_where_the_law_is_tested_normal_rows_mostly_pass() -> None:
    """One in twenty would be rejected if lengths did not share their fit; here 20 rows a dimension."""
    law = radial_fit(fit_gaussian(estimate_moments(decaying(640, 0)), 0.01), decaying(200, 1))
    assert law["p"] == pytest.approx(hotelling_p(640, 0))
    assert np.mean([hotelling_p(640, seed) < 0.05 for seed in range(40)]) < 0.15
    # Negative control: at two rows a dimension the same test would reject most of them.
    assert np.mean([hotelling_p(64, seed) < 0.05 for seed in range(40)]) > 0.8
