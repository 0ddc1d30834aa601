from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.data.synthetic.rng import BLOCK, SceneRng


def throws(stream: int, number: int, seed: int = 0, count: int = 5 * BLOCK) -> list[float]:
    dice = SceneRng(stream, number, seed)
    return [dice.uniform() for _ in range(count)]


def test_the_same_stream_number_and_seed_throw_the_same_numbers() -> None:
    assert throws(1, 7, 3) == throws(1, 7, 3)


@pytest.mark.parametrize("other", [(2, 7, 3), (1, 8, 3), (1, 7, 4)])
def test_no_two_scenes_share_a_number(other: tuple[int, int, int]) -> None:
    assert not set(throws(1, 7, 3)) & set(throws(*other))


def test_the_numbers_are_those_of_numpys_philox() -> None:
    bits = np.random.Philox(key=np.array([3, 1], dtype=np.uint64), counter=np.array([0, 0, 0, 7], dtype=np.uint64))
    assert sorted(throws(1, 7, 3, BLOCK)) == sorted(np.random.Generator(bits).random(BLOCK).tolist())


def test_the_numbers_of_many_scenes_are_uniform() -> None:
    first = [SceneRng(1, number).uniform() for number in range(2000)]
    assert stats.kstest(first, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.8])
def test_rank_r_comes_as_often_as_r_to_the_minus_exponent(exponent: float) -> None:
    dice, ranks = SceneRng(1, 0), np.arange(1, 9)
    counts = np.bincount([dice.zipf(range(8), exponent) for _ in range(8000)], minlength=8)
    law = ranks**-exponent / np.sum(ranks**-exponent)
    assert stats.chisquare(counts, 8000 * law).pvalue > 1e-4
    # Negative control: the same counts do not follow another exponent.
    other = ranks ** -(exponent + 0.2) / np.sum(ranks ** -(exponent + 0.2))
    assert stats.chisquare(counts, 8000 * other).pvalue < 1e-4


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.integers(1, 30), st.floats(0, 4))
def test_a_choice_is_always_one_of_the_choices(number: int, seed: int, choices: int, exponent: float) -> None:
    dice = SceneRng(1, number, seed)
    assert dice.zipf(range(choices), exponent) in range(choices)
    assert dice.choice(range(choices)) in range(choices)
    assert -3 <= dice.uniform(-3, 5) < 5
