"""The clock adds up where the time goes."""

from __future__ import annotations

import pytest

from pipeline.project.progress import PhaseTimer


def test_shares_name_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 1.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    clock = PhaseTimer()
    for what in ("data", "forward", "data"):
        with clock.phase(what):
            pass
    assert clock.summary() == "forward 80 %, data 20 %"


def test_time_that_ends_in_an_error_counts_too() -> None:
    clock = PhaseTimer()
    with pytest.raises(ValueError, match="x"), clock.phase("data"):
        raise ValueError("x")
    assert list(clock.seconds) == ["data"]


def test_a_clock_that_never_ran_says_nothing() -> None:
    assert PhaseTimer().summary() == ""


def test_waiting_for_an_item_and_using_it_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 3.0, 3.0, 4.0, 4.0, 6.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    clock = PhaseTimer()
    assert list(clock.iterate(["a"])) == ["a"]
    assert clock.seconds == {"data": 5.0, "step": 1.0}
