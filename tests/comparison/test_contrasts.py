"""From runs to contrasts: pairing, choosing rates, and worlds whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison.contrasts import Contrast, ContrastSpec, RunResult, best_learning_rates, contrasts, scored_runs
from pipeline.comparison.statistics import tost_p_value
from pipeline.comparison.verdict import direction, end_direction
from tests.factories.simulation import CHANCE, simulated_run, simulated_world

QUESTION = ContrastSpec("raw", "clip", CHANCE)


def only(found: list[Contrast]) -> Contrast:
    (one,) = found
    return one


def false_positives(comparisons: int) -> tuple[int, int]:
    """Count how often one of five arms that do nothing is called faster or slower, or higher or lower."""
    arms: dict[str, dict[str, float]] = {name: {} for name in "abcde"}
    worlds = [contrasts(simulated_world(w, arms), 4.0, QUESTION) for w in range(comparisons)]
    speeds = sum(any(direction(c.speed) for c in world) for world in worlds)
    return speeds, sum(any(end_direction(c.final) for c in world) for world in worlds)


def nominal(comparisons: int) -> float:
    """Return a count that a true rate of 5 % exceeds once in a hundred times."""
    return float(stats.binom.ppf(0.99, comparisons, 0.05))


def test_a_run_reads_back_as_it_was_written() -> None:
    run = simulated_run("zca", 1, 0)
    assert RunResult.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_a_planted_speed_up_of_two_is_found() -> None:
    found = [only(contrasts(simulated_world(w, {"fast": {"speed": 2.0}}), 4.0, QUESTION)) for w in range(40)]
    assert np.mean([direction(c.speed) == 1 for c in found]) > 0.95
    covered = np.mean([c.speed.low <= 2.0 <= c.speed.high for c in found])
    assert covered >= 0.85  # 95 % of 40 is 38; fewer than 34 would come once in 300 times
    assert np.exp(np.mean([np.log(c.speed.ratio) for c in found])) == pytest.approx(2.0, rel=0.05)


def test_a_planted_slow_down_of_two_is_found_too() -> None:
    found = [only(contrasts(simulated_world(w, {"slow": {"speed": 0.5}}), 4.0, QUESTION)) for w in range(20)]
    assert np.mean([direction(c.speed) == -1 for c in found]) > 0.9


def test_at_the_references_very_end_the_same_speed_up_would_be_missed() -> None:
    strict = replace(QUESTION, level_fraction=1.0)
    found = [only(contrasts(simulated_world(w, {"fast": {"speed": 2.0}}), 4.0, strict)) for w in range(40)]
    assert np.mean([direction(c.speed) == 1 for c in found]) < 0.5
    assert np.mean([c.speed.reference_reached for c in found]) < 3


def test_of_two_hundred_comparisons_without_a_difference_no_more_than_the_nominal_level_find_one() -> None:
    """Five arms each, so that Holm's correction is what is tested."""
    speeds, ends = false_positives(200)
    assert max(speeds, ends) <= nominal(200)


@pytest.mark.slow
def test_of_two_thousand_comparisons_without_a_difference_no_more_than_the_nominal_level_find_one() -> None:
    speeds, ends = false_positives(2000)
    assert max(speeds, ends) <= nominal(2000)


def test_without_holms_correction_more_than_the_nominal_level_would() -> None:
    arms: dict[str, dict[str, float]] = {name: {} for name in "abcde"}
    worlds = [simulated_world(w, arms) for w in range(200)]
    ends = {(w, r.arm, r.seed): r.final["clip"] for w, runs in enumerate(worlds) for r in runs}
    d = np.array([[[ends[w, a, s] - ends[w, "raw", s] for s in range(1, 6)] for a in "abcde"] for w in range(200)])
    assert np.sum((stats.ttest_1samp(d, 0, axis=-1).pvalue < 0.05).any(axis=1)) > nominal(200)


def test_a_higher_end_is_found_and_an_equal_one_is_called_equal() -> None:
    higher = only(contrasts(simulated_world(0, {"better": {"gain": 0.05}}), 4.0, QUESTION))
    assert end_direction(higher.final) == 1
    same = [replace(r, final={"clip": 0.4 + 0.001 * r.seed * len(r.arm)}) for r in simulated_world(0, {"same": {}})]
    assert only(contrasts(same, 4.0, QUESTION)).equivalence_p < 0.05


def test_the_p_of_equal_ends_is_adjusted_for_the_number_of_arms_too() -> None:
    arms: dict[str, dict[str, float]] = {name: {} for name in "abcd"}
    runs = simulated_world(3, arms)
    found = contrasts(runs, 4.0, QUESTION)
    ends = {(r.arm, r.seed): r.final["clip"] for r in runs}
    alone = [tost_p_value(np.array([ends[c.arm, s] - ends["raw", s] for s in range(1, 6)]), 0.01) for c in found]
    # Holm: the smallest of four is multiplied by 4, the next by 3 …, and none falls below the one before.
    by_hand = np.maximum.accumulate([min(1.0, (4 - rank) * p) for rank, p in enumerate(sorted(alone))])
    assert sorted(c.equivalence_p for c in found) == pytest.approx(by_hand)
    assert min(c.equivalence_p for c in found) == pytest.approx(4 * min(alone))


def test_seeds_are_paired_and_a_seed_without_its_reference_is_left_out() -> None:
    runs = simulated_world(1, {"zca": {}})
    found = only(contrasts(runs, 4.0, QUESTION))
    assert found.final.pairs == found.speed.pairs == 5
    without = [r for r in runs if (r.arm, r.seed) != ("raw", 3)]
    assert only(contrasts(without, 4.0, QUESTION)).final.pairs == 4
    assert contrasts([r for r in runs if r.arm != "raw"], 4.0, QUESTION) == []


def test_pairing_sees_what_unpaired_seeds_would_hide() -> None:
    runs = simulated_world(2, {"better": {"gain": 0.03}})
    ends = {arm: [r.final["clip"] for r in runs if r.arm == arm] for arm in ("raw", "better")}
    apart = stats.ttest_ind(ends["better"], ends["raw"]).pvalue
    assert only(contrasts(runs, 4.0, QUESTION)).final.p < apart


def test_the_rate_is_chosen_on_one_seed_and_that_seed_is_not_counted() -> None:
    runs = [
        replace(simulated_run("zca", seed, 0), learning_rate=rate, final={"clip": score})
        for seed, rate, score in [(0, 0.01, 0.3), (0, 0.03, 0.4), (1, 0.03, 0.35), (1, 0.01, 0.9)]
    ]
    rates = best_learning_rates(runs, "clip", seed=0)
    assert rates == {("zca", 4.0): 0.03}
    assert [(r.seed, r.learning_rate) for r in scored_runs(runs, rates, seed=0)] == [(1, 0.03)]


def test_budgets_are_compared_apart() -> None:
    runs = [simulated_run(arm, seed, 0, epochs=e) for arm in ("raw", "zca") for seed in (1, 2) for e in (1.0, 4.0)]
    assert only(contrasts(runs, 1.0, QUESTION)).epochs == 1.0
    assert only(contrasts(runs, 4.0, QUESTION)).epochs == 4.0
