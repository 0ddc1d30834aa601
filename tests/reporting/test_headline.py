"""The first sentence and the first table: who is best, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.project.layout import Layout
from pipeline.reporting.headline import headline, result_table
from pipeline.reporting.page import Cell
from pipeline.reporting.palette import palette
from pipeline.reporting.remarks import remarks
from pipeline.reporting.results import ArmResults, ProjectResults

COLORS = palette({"raw": "raw", "zca": "zca"}, ["mobilenetv3"])


def arm(target: str, accuracy: float, n: int = 1000, student: str = "mobilenetv3", **ceilings: float) -> ArmResults:
    """Return an arm that has one accuracy by every rule, `clip` unless others are given with their ceilings."""
    error = (accuracy * (1 - accuracy) / n) ** 0.5
    numbers = {"student": accuracy, "chance": 0.1, "n": n, "standard_error": error}
    rules = {rule: {**numbers, "ceiling": c, "kept": accuracy / c} for rule, c in (ceilings or {"clip": 0.8}).items()}
    metrics: dict[str, Any] = {"zero_shot": {"badges": rules}}
    return ArmResults(student, target, Path("models") / target, {"parameters": 1_500_000}, metrics, None)


def findings(*arms: ArmResults) -> ProjectResults:
    return ProjectResults(Layout(), arms, ("train", "val", "badges"), ("raw", "zca"), {}, {}, {})


def texts(found: ProjectResults) -> list[list[Cell]]:
    return [list(row) for row in result_table(found, COLORS).rows]


def test_the_best_arm_is_named_with_what_it_keeps_its_ceiling_and_chance() -> None:
    first, more = headline(findings(arm("raw", 0.5), arm("zca", 0.72)))
    assert first == (
        "mobilenetv3 against zca keeps 90 % of its teacher’s zero-shot accuracy on badges, "
        "89 % of its accuracy above chance."
    )
    assert "classifies 72.0 % of 1,000 images correctly, its teacher 80.0 % (rule clip, chance 10.0 %)" in more
    assert "1.5 million parameters" in more


def test_a_teacher_at_chance_leaves_nothing_to_keep_and_nobody_boasts() -> None:
    first, more = headline(findings(arm("raw", 0.134, clip=0.11), arm("zca", 0.12, clip=0.11)))
    assert first.startswith("The teacher itself is not significantly above chance on badges")
    assert "keeps" not in first
    assert "122 %" not in first + more
    assert "behind" not in more
    # Negative control: over 100 times as many images 11.0 % is no luck.
    assert "above its teacher" in headline(findings(arm("raw", 0.134, n=100_000, clip=0.11)))[0]


def test_retention_is_told_beside_what_remains_above_chance() -> None:
    first, _ = headline(findings(arm("raw", 0.134, clip=0.186)))
    assert "keeps 72 % of" in first
    assert "40 % of its accuracy above chance" in first
    alone, _ = headline(findings(arm("raw", 0.11, clip=0.186)))
    assert alone == "mobilenetv3 against raw is not significantly above chance on badges; its teacher is."
    at_chance, _ = headline(findings(arm("raw", 0.11, clip=0.186), arm("zca", 0.1, clip=0.186)))
    assert at_chance.startswith("mobilenetv3 against raw, the best on badges, is not significantly above chance there")


def test_ceilings_at_chance_are_named_beside_the_figure_and_in_a_sentence() -> None:
    found = findings(arm("raw", 0.184, clip=0.6, whitened=0.1), arm("zca", 0.1, clip=0.6, whitened=0.1))
    assert [cell.note for cell in texts(found)[-2][2:4]] == ["", "at chance"]
    (line,) = [block.text for block in remarks(found)]
    assert line.startswith("On badges the teacher itself is not significantly above chance by `whitened`")
    assert "mobilenetv3-raw by `whitened` (18.4 %)" in line
    assert "zca" not in line
    assert remarks(findings(arm("raw", 0.184, clip=0.6))) == []


def test_a_ceiling_fitted_to_too_few_rows_says_so_beside_the_figure() -> None:
    few = arm("raw", 0.5, clip=0.8, whitened=0.7)
    assert few.metrics is not None
    few.metrics["reference_fit"] = {"dimensions": 64, "rows": {"image": 639, "text": 3000}}
    assert [cell.note for cell in texts(findings(few))[-2][2:4]] == ["", "few rows"]
    (line,) = [block.text for block in remarks(findings(few))]
    assert "fitted to 639 image rows, below 10 a dimension (640)" in line
    few.metrics["reference_fit"]["rows"]["image"] = 640
    assert remarks(findings(few)) == []


def test_the_first_rule_is_clip_or_what_the_report_names_and_the_others_follow_the_params() -> None:
    ceilings: dict[str, Any] = {
        "centered": 0.7,
        "clip": 0.8,
        "soft": 0.75,
        "whitened": 0.6,
    }  # as metrics.json sorts them
    found = replace(findings(arm("raw", 0.5, **ceilings)), rule_order=("soft", "clip", "whitened", "centered"))
    assert found.rules == ["clip", "soft", "whitened", "centered"]
    assert [name for name, *_ in [c.split(" · ")[::-1] for c in result_table(found, COLORS).columns[2:]]] == found.rules
    assert "its teacher 80.0 % (rule clip" in headline(found)[1]
    named = replace(found, headline="soft")
    assert named.rules == ["soft", "clip", "whitened", "centered"]
    assert "its teacher 75.0 % (rule soft" in headline(named)[1]


def test_a_lead_within_the_noise_of_the_images_is_called_that() -> None:
    _, close = headline(findings(arm("raw", 0.69), arm("zca", 0.70)))
    assert "1.0 points behind, which is not significant with so few images" in close
    _, clear = headline(findings(arm("raw", 0.5), arm("zca", 0.70)))
    assert "20.0 points behind, which is significant on these images" in clear


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
    assert headline(findings(fast))[0].endswith("of its accuracy above chance, at 1/60 of its time.")
    assert [row[-1].text for row in texts(findings(fast))] == ["2.0", "120.0", ""]
    assert "time" not in headline(findings(slow))[0]
    assert headline(findings(slow))[1].endswith("`python cli.py profile` measures its speed.")
    assert "profile" not in headline(findings(fast))[1]


def test_nothing_measured_is_a_sentence() -> None:
    assert headline(findings())[0] == "No student has been evaluated yet."
