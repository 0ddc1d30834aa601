"""Paired statistics against scipy, published numbers and simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.comparison.statistics import bootstrap_interval, detectable, holm, paired_t_interval, power, tost_p_value

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def test_the_paired_interval_and_p_are_those_of_scipy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    found, oracle = paired_t_interval(a - b, level=0.9), stats.ttest_rel(a, b)
    low, high = oracle.confidence_interval(0.9)
    assert (found.mean, found.p) == pytest.approx((float(np.mean(a - b)), oracle.pvalue))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_pair_says_nothing_of_its_own_spread() -> None:
    found = paired_t_interval(np.array([3.0]))
    assert (found.low, found.high, found.p) == (-np.inf, np.inf, 1.0)


def test_differences_without_spread_are_certain_and_none_at_all_is_no_difference() -> None:
    assert paired_t_interval(np.full(4, 2.0)).p == 0.0
    assert paired_t_interval(np.zeros(4)).p == 1.0


def test_the_bootstrap_agrees_with_scipys_where_it_is_the_wider_one() -> None:
    skewed = np.random.default_rng(1).exponential(size=40) ** 3
    found = bootstrap_interval(skewed)
    oracle = stats.bootstrap((skewed,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
    # 4000 resamples place a 2.5 % quantile to about 3 % of the interval's width.
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert found.high == pytest.approx(oracle.confidence_interval.high, abs=0.05 * width)
    assert found.low <= oracle.confidence_interval.low


def test_the_interval_of_five_normal_numbers_covers_what_it_promises_and_the_bootstraps_alone_does_not() -> None:
    rng = np.random.default_rng(3)
    worlds = rng.normal(size=(400, 5))
    covered = np.mean([(found := bootstrap_interval(x)).low <= 0 <= found.high for x in worlds])
    picks = rng.integers(5, size=(400, 5))
    plain = [np.quantile(x[picks].mean(axis=1), [0.025, 0.975]) for x in worlds]
    # Binomial: 95 % of 400 is 380, one in a hundred such counts is below 369.
    assert covered >= 369 / 400
    assert np.mean([low <= 0 <= high for low, high in plain]) < 0.9


def test_equivalence_is_two_one_sided_t_tests() -> None:
    d = np.random.default_rng(4).normal(0.2, 0.5, size=9)
    below = stats.ttest_1samp(d, 1.0, alternative="less").pvalue
    above = stats.ttest_1samp(d, -1.0, alternative="greater").pvalue
    assert tost_p_value(d, 1.0) == pytest.approx(max(below, above))


def test_a_real_difference_is_not_called_equal() -> None:
    d = np.random.default_rng(5).normal(2.0, 0.5, size=9)
    assert tost_p_value(d, 1.0) > 0.99
    assert tost_p_value(np.array([0.0]), 1.0) == 1.0


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    subsets = [s for size in range(1, len(p) + 1) for s in combinations(range(len(p)), size)]
    for i, adjusted in enumerate(holm(p)):
        closed = max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s)
        assert adjusted == pytest.approx(closed)


@pytest.mark.parametrize(
    ("effect", "sd", "pairs", "expected"),
    [(5, 4.2, 8, 0.81), (3, 4.2, 20, 0.85), (8, 4.2, 3, 0.44)],  # measured for the design of this experiment
)
def test_power_gives_the_measured_figures(effect: float, sd: float, pairs: int, expected: float) -> None:
    # The third was simulated with few draws: the exact value is 0.47.
    assert power(effect, sd, pairs) == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize("effect", [0.3, 1.0, 2.0])
def test_power_is_a_tail_of_the_noncentral_t(effect: float) -> None:
    edge, shift = stats.t.ppf(0.975, 7), np.sqrt(8) * effect
    oracle = stats.nct.sf(edge, 7, shift) + stats.nct.cdf(-edge, 7, shift)
    assert power(effect, 1.0, 8) == pytest.approx(oracle, abs=1e-3)


def test_power_is_how_often_a_simulated_effect_is_seen() -> None:
    d = np.random.default_rng(6).normal(1.5, 1.0, size=(4000, 5))
    seen = np.mean(stats.ttest_1samp(d, 0.0, axis=1).pvalue < 0.05)
    assert power(1.5, 1.0, 5) == pytest.approx(seen, abs=0.03)  # four standard errors of the simulation


def test_no_effect_is_seen_at_the_nominal_rate_and_one_pair_sees_nothing() -> None:
    assert power(0.0, 1.0, 5) == pytest.approx(0.05, abs=1e-3)
    assert power(9.0, 1.0, 1) == 0.0


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_what_is_detectable_is_seen_four_times_in_five(pairs: int) -> None:
    assert power(detectable(4.2, pairs), 4.2, pairs) == pytest.approx(0.8)
    assert detectable(4.2, 1) == float("inf")
    assert detectable(0.0, pairs) == 0.0
