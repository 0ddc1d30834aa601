"""The first sentence and the first table: who is best, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.project.layout import Layout
from pipeline.reporting.answer import answer, results
from pipeline.reporting.findings import Arm, Findings
from pipeline.reporting.page import Cell
from pipeline.reporting.palette import palette


def arm(target: str, accuracy: float, n: int = 1000, student: str = "mobilenetv3") -> Arm:
    error = (accuracy * (1 - accuracy) / n) ** 0.5
    numbers = {"student": accuracy, "ceiling": 0.8, "chance": 0.1, "kept": accuracy / 0.8, "n": n}
    numbers["standard_error"] = error
    metrics: dict[str, Any] = {"zero_shot": {"badges": {"clip": numbers}}}
    return Arm(student, target, Path("models") / target, {"parameters": 1_500_000}, metrics, None)


def findings(*arms: Arm) -> Findings:
    return Findings(Layout(), arms, ("train", "val", "badges"), ("raw", "zca"), {}, {}, {})


def texts(found: Findings) -> list[list[Cell]]:
    colours = palette({"raw": "raw", "zca": "zca"}, ["mobilenetv3"])
    return [list(row) for row in results(found, colours).rows]


def test_the_best_arm_is_named_with_what_it_keeps_its_ceiling_and_chance() -> None:
    first, more = answer(findings(arm("raw", 0.5), arm("zca", 0.72)))
    assert first == "mobilenetv3 against zca keeps 90 % of its teacher’s zero-shot accuracy on badges."
    assert "72.0 of 80.0 %" in more
    assert "chance 10.0 %" in more
    assert "1.5 million parameters" in more


def test_a_lead_within_the_noise_of_the_images_is_called_that() -> None:
    _, close = answer(findings(arm("raw", 0.69), arm("zca", 0.70)))
    assert "1.0 points behind, which so few images cannot tell apart" in close
    _, clear = answer(findings(arm("raw", 0.5), arm("zca", 0.70)))
    assert "20.0 points behind, more than these images’ noise" in clear


def test_ties_are_bold_together_and_what_is_clearly_worse_is_not() -> None:
    rows = texts(findings(arm("raw", 0.695), arm("zca", 0.70)))
    assert [row[2].best for row in rows] == [True, True, False, False]
    rows = texts(findings(arm("raw", 0.6), arm("zca", 0.70)))
    assert [row[2].best for row in rows] == [False, True, False, False]


def test_ceiling_and_chance_stand_below_in_the_same_column() -> None:
    rows = texts(findings(arm("raw", 0.6)))
    assert [row[2].text for row in rows] == ["60.0", "80.0", "10.0"]


def test_how_fast_is_said_where_it_was_profiled() -> None:
    def times(form: str, ms: float) -> dict[str, Any]:
        return {"name": "x", "form": form, "latency": [{"median": ms, "p95": ms, "threads": 1}]}

    slow = arm("zca", 0.7)
    fast = replace(slow, profile={"costs": [times("torch fp32", 2.0), times("teacher, torch fp32", 120.0)]})
    assert answer(findings(fast))[0].endswith("accuracy on badges at 1/60 of its time.")
    assert [row[-1].text for row in texts(findings(fast))] == ["2.0", "120.0", ""]
    assert "time" not in answer(findings(slow))[0]
    assert answer(findings(slow))[1].endswith("How fast it is, `python cli.py profile` measures.")
    assert "profile" not in answer(findings(fast))[1]


def test_nothing_measured_is_a_sentence() -> None:
    assert answer(findings())[0] == "No student has been evaluated yet."
