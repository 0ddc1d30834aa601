"""Long work says how far it is, in plain lines where there is no terminal."""

from __future__ import annotations

import pytest

from pipeline.project import progress as module
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
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("embed", 4) as advance:
        advance(2, note="forward 90 %")
        advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["embed: 2/4 rows, 20 s left, 0.1/s, forward 90 %", "embed: 4/4 rows in 40.0 s, 0.1/s"]
