"""The plan of a comparison: an optimum with neighbours, and what fits into the time there is."""

from __future__ import annotations

from math import inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison.schedule import EXTENSIONS, STEP, make_plan, next_rate

GRID = [1e-3, 3e-3, 9e-3]


def search(optimum: float) -> dict[float, float]:
    """Go through the rates of an arm whose score peaks at `optimum`."""
    scores: dict[float, float] = {}
    while (rate := next_rate(scores, GRID)) is not None:
        scores[rate] = -abs(log(rate / optimum))
    return scores


def test_an_interior_optimum_needs_the_grid_alone() -> None:
    assert sorted(search(3e-3)) == GRID


@pytest.mark.parametrize("optimum", [1e-3, 9e-3, 2.7e-2, 1e-4])
def test_an_optimum_at_an_edge_extends_the_grid_until_it_has_neighbors(optimum: float) -> None:
    scores = search(optimum)
    best = max(scores, key=lambda rate: scores[rate])
    assert min(scores) < best < max(scores)


@given(st.floats(-12, 12))
def test_the_search_always_ends(exponent: float) -> None:
    scores = search(10.0**exponent)
    assert len(scores) <= len(GRID) + EXTENSIONS
    assert set(GRID) <= set(scores)


def test_a_rate_that_diverged_is_a_neighbor() -> None:
    assert next_rate({1e-3: 0.1, 3e-3: 0.4, 9e-3: -inf}, GRID) is None


def test_a_visit_later_gives_the_same_names_to_the_same_rates() -> None:
    first = next_rate({rate: rate for rate in GRID}, GRID)
    assert first == pytest.approx(9e-3 * STEP)
    assert first == float(f"{first:.3g}")


def test_the_whole_plan_is_made_where_there_is_time() -> None:
    plan = make_plan(6, [1, 8], [1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2], 5, epoch_seconds=2.0, limit=None)
    assert (plan.seeds, len(plan.rates), plan.runs) == (5, 5, 120)
    assert plan.seconds == pytest.approx(6 * 9 * 10 * 2.0)


def test_less_time_takes_rates_first_then_seeds() -> None:
    rates = [1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2]
    whole = make_plan(6, [1, 8], rates, 5, epoch_seconds=2.0, limit=None).seconds
    fewer_rates = make_plan(6, [1, 8], rates, 5, epoch_seconds=2.0, limit=0.8 * whole)
    assert (fewer_rates.seeds, fewer_rates.rates) == (5, (3e-3, 9e-3, 2.7e-2))
    fewer_seeds = make_plan(6, [1, 8], rates, 5, epoch_seconds=2.0, limit=0.7 * whole)
    assert fewer_seeds.seeds == 4
    assert fewer_seeds.seconds <= 0.7 * whole
    assert fewer_seeds.minimum_detectable_effect(0.02) > fewer_rates.minimum_detectable_effect(0.02)


def test_a_limit_too_small_for_anything_gives_the_smallest_plan_and_its_cost() -> None:
    plan = make_plan(6, [1, 8], GRID, 5, epoch_seconds=2.0, limit=1.0)
    assert (plan.seeds, len(plan.rates)) == (3, 3)
    assert plan.seconds > 1.0


def test_a_wish_below_the_smallest_plan_is_taken_as_it_is() -> None:
    plan = make_plan(2, [1], [1e-3], 2, epoch_seconds=1.0, limit=None)
    assert (plan.seeds, plan.rates, plan.runs) == (2, (1e-3,), 4)  # a single rate is not searched
