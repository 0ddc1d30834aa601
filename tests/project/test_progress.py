"""Long work says how far it is, in plain lines where there is no terminal."""

from __future__ import annotations

import pytest

from pipeline.project.progress import progress


def test_the_last_line_says_how_much_was_done_and_how_long_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("pack train", 3, "images") as advance:
        for _ in range(3):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1  # the first two came too soon after one another
    assert lines[0].startswith("pack train: 3/3 images in ")


def test_a_slow_piece_of_work_says_what_is_left_and_where_the_time_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr("pipeline.project.progress.time.monotonic", lambda: next(clock))
    with progress("embed", 4) as advance:
        advance(2, note="forward 90 %")
        advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["embed: 2/4 rows, 20 s left, 0.1/s, forward 90 %", "embed: 4/4 rows in 40.0 s, 0.1/s"]


def lines_of(
    total: int, times: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Return what is said of work of which a unit is done at each of some times, begun at 0."""
    clock = iter([0.0, *times])
    monkeypatch.setattr("pipeline.project.progress.time.monotonic", lambda: next(clock))
    with progress("pack train", total, "images") as advance:
        for _ in times:
            advance()
    return capsys.readouterr().err.splitlines()


def test_long_work_is_estimated_once_from_what_came_after_the_first_unit_which_sets_things_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image took 8 s, each of the next two seconds: 100 of them are left, 200 s."""
    lines = lines_of(101, [8.0, 10.0, 12.0, 14.0, 16.0], capsys, monkeypatch)
    assert [line for line in lines if "about" in line] == ["pack train: about 3.3 min for 101 images (0.5/s)"]


def test_very_long_work_names_the_command_that_says_what_would_make_it_shorter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = lines_of(118_287, [1.0, 2.0, 3.0, 4.0], capsys, monkeypatch)
    assert line == "pack train: about 33 h for 118,287 images (1/s); `plan` says what would make it shorter"


def test_short_work_is_not_estimated(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(40, [1.0, 2.0, 3.0, 4.0, 5.0], capsys, monkeypatch) == []
