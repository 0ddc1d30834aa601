"""Times to a level, on curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison.convergence import mean_height, smoothed, speed_up, time_to_level

STEPS = np.arange(1.0, 41.0)


def test_a_straight_line_reaches_a_level_where_it_crosses_it() -> None:
    assert time_to_level(STEPS, 2 * STEPS, 25.0) == pytest.approx(12.5)


def test_a_curve_that_never_holds_the_level_is_censored() -> None:
    assert time_to_level(STEPS, STEPS, 100.0) is None
    flickering = np.where(STEPS % 4 == 0, 10.0, 0.0)
    assert time_to_level(STEPS, flickering, 3.0) is None


def test_a_lone_spike_is_not_an_arrival() -> None:
    curve = np.where(STEPS >= 30, 1.0, 0.0)
    curve[5] = 3.0
    found = time_to_level(STEPS, curve, 0.9)
    assert found == pytest.approx(30, abs=1)


def test_an_arrival_too_late_to_be_seen_to_hold_is_none() -> None:
    seen, unseen = (np.where(first <= STEPS, 1.0, 0.0) for first in (36, 38))
    assert time_to_level(STEPS, seen, 0.9) == pytest.approx(36.7)
    assert time_to_level(STEPS, unseen, 0.9) is None
    assert time_to_level(STEPS, unseen[::-1], 0.9) is None


def test_a_curve_above_from_the_start_took_its_first_step() -> None:
    assert time_to_level(STEPS, np.ones(40), 0.5) == 1.0


def test_smoothing_moves_no_curve_in_time() -> None:
    line = 3 * STEPS
    assert smoothed(line)[1:-1] == pytest.approx(line[1:-1])
    # Negative control: the trailing average that is usual lags behind by a step.
    trailing = np.convolve(line, np.ones(3) / 3)[2:40]
    assert trailing == pytest.approx(line[2:] - 3)


@given(st.integers(1, 2))
def test_curves_of_one_and_two_evaluations_are_read_too(count: int) -> None:
    assert smoothed(np.arange(1.0, 1 + count)).tolist() == pytest.approx([1.0] if count == 1 else [1.5, 1.5])
    assert time_to_level(STEPS[:count], np.zeros(count), 1.0) is None


def test_the_area_is_the_mean_height() -> None:
    assert mean_height(STEPS, STEPS) == pytest.approx(20.5)
    assert mean_height(STEPS[:1], np.array([7.0])) == 7.0


def test_the_ratio_is_the_geometric_mean_over_seeds() -> None:
    found = speed_up([10, 20, 40], [5, 10, 20], 100)
    assert found.ratio == pytest.approx(2.0)
    assert (found.pairs, found.bound) == (3, "")
    assert found.p < 1e-6


def test_swapping_the_arms_inverts_the_ratio_and_its_interval() -> None:
    one, other = [10.0, 24, 33, 18, None], [7.0, 11, 20, 19, 13]
    there, back = speed_up(one, other, 60), speed_up(other, one, 60)
    assert there.ratio * back.ratio == pytest.approx(1.0)
    assert there.low * back.high == pytest.approx(1.0, rel=0.02)  # the bootstrap draws are the same, mirrored
    assert (there.bound, back.bound) == ("≥", "≤")


def test_censored_runs_pull_the_ratio_towards_one_and_never_past_it() -> None:
    truth = speed_up([30, 60, 90], [10, 20, 30], 1000)
    cut = speed_up([30, None, None], [10, 20, 30], 50)
    assert truth.ratio == pytest.approx(3.0)
    assert 1.0 < cut.ratio < truth.ratio
    assert cut.bound == "≥"


def test_two_arms_that_never_arrive_do_not_differ() -> None:
    found = speed_up([None, None, None], [None, None, None], 50)
    assert (found.ratio, found.p, found.bound) == (1.0, 1.0, "~")
