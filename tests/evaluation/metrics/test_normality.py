"""Tests of normality against scipy, with their rejection rates on truly Gaussian rows and their power."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import anderson, false_discovery_control, normaltest

from pipeline.evaluation.metrics.normality import (
    GroupTests,
    anderson_darling,
    gaussian_null,
    group_tests,
    normality_summary,
)


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def student_t(n: int, d: int, freedom: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(freedom, size=(n, d))


def test_anderson_darling_is_scipy_s_with_stephens_correction() -> None:
    rows = normal(250, 6) ** 3
    found = anderson_darling(rows[None])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scipy announces another return type; the statistic stays
        expected = [anderson(rows[:, j], "norm").statistic for j in range(6)]
    correction = 1 + 0.75 / 250 + 2.25 / 250**2
    np.testing.assert_allclose(found / correction, expected, rtol=1e-9)


def test_p_values_are_dagostino_s_group_by_group() -> None:
    rows = student_t(500, 3, 5)
    found = group_tests(rows, 250)
    assert found.p.shape == (2, 3)
    assert found.p[1, 2] == pytest.approx(normaltest(rows[250:, 2]).pvalue)


def test_gaussian_rows_are_rejected_five_percent_of_the_time() -> None:
    tests = group_tests(normal(20 * 250, 100), 250)
    # 2,000 tests: three binomial standard errors are 1.5 points. K²'s own approximation errs by half a point.
    assert tests.ad_rejected == pytest.approx(0.05, abs=0.02)
    assert tests.k2_rejected == pytest.approx(0.05, abs=0.02)
    assert tests.fdr_rejected < 0.002


def test_the_rule_of_group_means_passes_what_single_tests_reject() -> None:
    tests = group_tests(student_t(20 * 250, 60, 20), 250)
    assert tests.group_means_pass == 1.0  # W-CLIP's evidence would call these rows Gaussian
    assert tests.ad_rejected > 0.07
    assert tests.k2_rejected > 0.12


def test_heavy_tails_show_in_effect_sizes_and_not_in_a_gaussian() -> None:
    heavy, calm = normality_summary(student_t(2000, 20, 5), 0), normality_summary(normal(2000, 20), 0)
    assert heavy["excess_kurtosis"]["q50"] > 1
    assert abs(calm["excess_kurtosis"]["q50"]) < 0.1
    assert heavy["ad_rejected"] > 0.5 > calm["ad_rejected"]
    # A random direction mixes twenty independent tails into something nearly Gaussian: the basis matters.
    assert heavy["ad_rejected_projections"] < heavy["ad_rejected"]


def test_benjamini_hochberg_is_scipy_s() -> None:
    p = np.concatenate([np.random.default_rng(0).random(300), np.random.default_rng(1).random(60) * 1e-3])
    expected = np.mean(false_discovery_control(p) <= 0.05)
    assert GroupTests(np.zeros((1, 360)), p[None]).fdr_rejected == pytest.approx(expected)


def test_the_matched_null_has_the_covariance_of_what_it_stands_for() -> None:
    mix = normal(5, 5, seed=3)
    covariance, forward = mix @ mix.T, normal(5, 4, seed=4)
    rows = gaussian_null(covariance, forward, 200_000, seed=0)
    expected = forward.T @ covariance @ forward
    np.testing.assert_allclose(np.cov(rows.T), expected, atol=0.02 * np.abs(expected).max())


def test_fewer_rows_than_a_group_are_one_group_and_extreme_rows_stay_finite() -> None:
    assert group_tests(normal(60, 2), 250).ad.shape == (1, 2)
    rows = normal(250, 2)
    rows[0] = 1e6
    assert np.isfinite(group_tests(rows).ad).all()
