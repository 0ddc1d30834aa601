"""Words against intervals: each sentence, and what it must not say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.comparison.contrasts import Contrast, ContrastSpec, contrasts
from pipeline.comparison.convergence import SpeedUp
from pipeline.comparison.statistics import Interval
from pipeline.comparison.verdict import direction, end_direction, format_points, format_ratio, sentence, verdicts
from tests.factories.simulation import CHANCE, simulated_world


def speed(ratio: float, low: float, high: float, p: float = 0.001, arrived: tuple[int, int] = (5, 5)) -> SpeedUp:
    return SpeedUp(ratio, low, high, p, 5, *arrived)


def contrast(
    found: SpeedUp,
    end: tuple[float, float, float] = (0, -0.03, 0.03),
    p: float = 0.9,
    equal: float = 0.5,
    reference: str = "raw",
) -> Contrast:
    interval = Interval(*end, p=p, pairs=5)
    return Contrast("zca", reference, 4.0, "clip", 0.4, found, interval, interval, equal, 0.02)


FASTER = contrast(speed(2.9, 2.1, 3.8))
SCALE = contrast(speed(1.1, 0.9, 1.3, p=0.4), reference="scale")


def test_the_gain_that_scale_gives_too_is_scales() -> None:
    said = sentence(FASTER, SCALE, 0.01)
    assert said.startswith("faster than raw: 2.9× [2.1, 3.8]; against scale: 1.1× [0.9, 1.3]: scale, not zca")


def test_a_gain_beyond_scale_is_said_to_be_beyond_it() -> None:
    assert "against scale: 1.8× [1.4, 2.3]: more than scale" in sentence(
        FASTER, contrast(speed(1.8, 1.4, 2.3), reference="scale"), 0.01
    )


def test_slower_than_scale_alone_is_said() -> None:
    assert "slower than scale alone" in sentence(FASTER, contrast(speed(0.7, 0.6, 0.8), reference="scale"), 0.01)


@pytest.mark.parametrize(
    "control",
    [speed(1.4, 0.8, 2.4, p=0.3), speed(1.4, 1.1, 1.9, p=0.06)],  # overlaps the gain; Holm's p is not small
)
def test_where_the_interval_overlaps_the_gain_nothing_is_attributed(control: SpeedUp) -> None:
    said = sentence(FASTER, contrast(control, reference="scale"), 0.01)
    assert "whether it adds to scale is open" in said
    assert "scale, not" not in said
    assert "more than" not in said


def test_without_a_gain_over_the_reference_there_is_nothing_to_attribute() -> None:
    nothing = contrast(speed(1.2, 0.9, 1.6, p=0.3))
    said = sentence(nothing, SCALE, 0.01)
    assert said.startswith("speed against raw is open: 1.2× [0.9, 1.6]")
    assert "scale, not" not in said


def test_both_the_corrected_p_and_the_interval_are_needed() -> None:
    assert direction(speed(2.0, 1.5, 2.5)) == 1
    assert direction(speed(2.0, 1.5, 2.5, p=0.051)) == 0
    assert direction(speed(2.0, 0.95, 2.5, p=0.01)) == 0
    assert direction(speed(0.5, 0.4, 0.7)) == -1
    assert end_direction(Interval(0.02, -0.001, 0.041, 0.01, 5)) == 0
    assert end_direction(Interval(-0.02, -0.03, -0.01, 0.01, 5)) == -1


def test_censored_runs_are_marked_as_bounds() -> None:
    assert format_ratio(speed(2.0, 1.5, 2.5, arrived=(3, 5))) == "≥ 2.0× [1.5, 2.5]"
    assert format_ratio(speed(0.5, 0.4, 0.7, arrived=(5, 3))) == "≤ 0.5× [0.4, 0.7]"
    nobody = contrast(speed(1.0, 1.0, 1.0, p=1.0, arrived=(0, 0)))
    assert sentence(nobody, None, 0.01).startswith("neither it nor raw held the level")


def test_an_interval_that_ends_beside_one_shows_on_which_side() -> None:
    assert format_ratio(speed(1.2, 1.04, 1.4)) == "1.20× [1.04, 1.40]"
    assert format_ratio(speed(0.8, 0.6, 0.96)) == "0.80× [0.60, 0.96]"


def test_the_end_is_higher_lower_equal_or_open() -> None:
    lower = contrast(speed(1, 0.9, 1.1, p=1), end=(-0.041, -0.05, -0.032), p=0.001)
    equal = contrast(speed(1, 0.9, 1.1, p=1), end=(0.001, -0.004, 0.006), equal=0.01)
    assert "ends lower than raw: -4.1 points [-5.0, -3.2]" in sentence(lower, None, 0.01)
    assert "ends equal to raw within 1 point: +0.1" in sentence(equal, None, 0.01)
    assert "ends equal to raw within 2 points: +0.1" in sentence(equal, None, 0.02)
    said = sentence(FASTER, None, 0.01)
    assert "its end against raw is open: +0.0 points [-3.0, +3.0]" in said
    assert "5 seeds show 3.4 points 4 times in 5" in said
    assert format_points(equal.final) == "+0.1 points [-0.4, +0.6]"


def test_a_world_where_scale_is_all_there_is_ends_in_that_verdict() -> None:
    runs = simulated_world(3, {"scale": {"speed": 3.0}, "zca": {"speed": 3.0}})
    raw, scale = (contrasts(runs, 4.0, ContrastSpec(name, "clip", CHANCE)) for name in ("raw", "scale"))
    said = verdicts(raw, scale, 0.01)
    assert "scale, not zca" in said["zca"]
    assert "against scale" not in said["scale"]


def test_a_world_without_any_difference_claims_none() -> None:
    runs = simulated_world(4, {"scale": {}, "zca": {}})
    raw, scale = (contrasts(runs, 4.0, ContrastSpec(name, "clip", CHANCE)) for name in ("raw", "scale"))
    for said in verdicts(raw, scale, 0.01).values():
        assert not {"faster", "slower", "higher", "lower", "not zca"} & set(said.split())


def test_the_level_that_was_asked_for_decides_and_not_the_sign() -> None:
    """Negative control: the same numbers with a p of one make no claim at all."""
    silent = replace(FASTER, speed=replace(FASTER.speed, p=1.0))
    assert sentence(silent, None, 0.01).startswith("speed against raw is open")
