"""The first screen of the report: one sentence, one table, one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.evaluation.scoring_rules import is_above_chance, kept_above_chance
from pipeline.reporting.metric_tables import percent, provenance
from pipeline.reporting.page import Block, Cell, FigureBlock, TableBlock, TextBlock
from pipeline.reporting.palette import Palette
from pipeline.reporting.plots import Dot, dot_plot
from pipeline.reporting.remarks import ceiling_note, remarks
from pipeline.reporting.results import STUDENT, TEACHER, ArmResults, ProjectResults

WAYS = ("image_to_text", "text_to_image")
INTERVAL = 1.96
"""Half width of a 95 % interval in standard errors."""


def ranking(results: ProjectResults) -> list[ArmResults]:
    """Return the arms by their accuracy on the first set under the first rule, best first."""
    split, rule = next(iter(results.sets), ""), next(iter(results.rules), "")
    scored = [arm for arm in results.arms if arm.zero_shot(split, rule)]
    return sorted(scored, key=lambda arm: -_number(arm, split, rule, "student"))


def headline(results: ProjectResults) -> tuple[str, str]:
    """Return the share of its teacher's accuracy that the best arm keeps, and further sentences about it."""
    order = ranking(results)
    if not order:
        return (
            "No student has been evaluated yet.",
            "Run `dvc repro`; results appear on this page when they are finished.",
        )
    split, rule = results.sets[0], results.rules[0]
    best, numbers = order[0], order[0].zero_shot(split, rule) or {}
    mine, ceiling = percent(numbers["student"]), percent(numbers["ceiling"])
    scores = f"{mine} % of {numbers['n']:,} images correctly, its teacher {ceiling} %"
    chance = percent(numbers["chance"])
    more = f"{best.name} classifies {scores} (rule {rule}, chance {chance} %){_size(best)}."
    is_significant = is_above_chance(numbers["ceiling"], numbers["chance"], numbers["n"])
    sentences = (more, _runner_up(order, split, rule), _unprofiled(best)) if is_significant else (more,)
    return f"{_retention(best, split, numbers, len(order))}.", " ".join(filter(None, sentences))


def _retention(best: ArmResults, split: str, numbers: dict[str, Any], arms: int) -> str:
    """Return the sentence on the share of the teacher's accuracy that a student reaches, also above chance."""
    name, count, by_chance = f"{best.student} against {best.target}", numbers["n"], numbers["chance"]
    mine, ceiling = numbers["student"], numbers["ceiling"]
    if not is_above_chance(ceiling, by_chance, count):
        return f"The teacher itself is not significantly above chance on {split}, so {name} cannot be judged there"
    if not is_above_chance(mine, by_chance, count):
        if arms == 1:
            return f"{name} is not significantly above chance on {split}; its teacher is"
        return f"{name}, the best on {split}, is not significantly above chance there; its teacher is"
    if mine > ceiling:
        return f"{name} scores above its teacher on {split}: {percent(mine)} against {percent(ceiling)} %{_speed(best)}"
    share, above = mine / ceiling, kept_above_chance(mine, ceiling, by_chance, count) or 0.0
    lead = f"{name} keeps {_share(share)} of its teacher’s zero-shot accuracy on {split}"
    return f"{lead}, {_share(above)} of its accuracy above chance{',' if _speed(best) else ''}{_speed(best)}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _runner_up(order: Sequence[ArmResults], split: str, rule: str) -> str:
    """Return whether the next target space of the same student is significantly behind, on the same images."""
    best = order[0]
    other = next((arm for arm in order[1:] if arm.student == best.student), None)
    if other is None:
        return ""
    gap = _number(best, split, rule, "student") - _number(other, split, rule, "student")
    noise = math.hypot(*(_number(arm, split, rule, "standard_error") for arm in (best, other)))
    verdict = (
        "which is not significant with so few images"
        if gap < INTERVAL * noise
        else "which is significant on these images"
    )
    return (
        f"The next target space, {other.target}, is {100 * gap:.1f} points behind, {verdict}; "
        "each arm has one seed: `python cli.py compare` shows whether seeds agree."
    )


def _size(arm: ArmResults) -> str:
    parameters = (arm.card or {}).get("parameters")
    return f", with {parameters / 1e6:.1f} million parameters" if parameters else ""


def _speed(arm: ArmResults) -> str:
    mine, teacher = arm.milliseconds(STUDENT), arm.milliseconds(TEACHER)
    return f" at 1/{teacher / mine:.0f} of its time" if mine and teacher and teacher > 1.5 * mine else ""


def _unprofiled(arm: ArmResults) -> str:
    return "" if arm.milliseconds(STUDENT) else "`python cli.py profile` measures its speed."


def overview_blocks(results: ProjectResults, colors: Palette) -> list[Block]:
    """Return the table of all arms and its plot."""
    if not results.measured:
        return [TextBlock("There is no metrics.json in any arm’s folder yet.")]
    missing = [arm.name for arm in results.arms if not arm.metrics]
    note = [TextBlock(f"No result for {', '.join(missing)} yet: run `dvc repro`.")] if missing else []
    return [result_table(results, colors), *note, *remarks(results), accuracy_figure(results, colors)]


def result_table(results: ProjectResults, colors: Palette) -> TableBlock:
    """Return one row per arm, one column per set and rule, and the ceiling and chance of each column."""
    columns = [_zero_shot_column(results, split, rule) for split in results.sets for rule in results.rules]
    columns += [_retrieval_column(results, way, rule) for rule in results.rules[:1] for way in WAYS]
    columns = [column for column in [*columns, _time_column(results)] if any(cell.text for cell in column[1])]
    rows = [_names(arm, colors) for arm in results.measured]
    rows += [(Cell(name, heading=True), Cell("", heading=True)) for name in ("ceiling: the teacher", "chance")]
    body = tuple((*names, *(column[1][i] for column in columns)) for i, names in enumerate(rows))
    caption = "In per cent, ± one binomial standard error. Bold: the best, and all within its standard error."
    return TableBlock(
        "results", ("student", "target space", *(name for name, _ in columns)), body, caption, reference_rows=2
    )


def _names(arm: ArmResults, colors: Palette) -> tuple[Cell, Cell]:
    size = (arm.card or {}).get("parameters")
    note = f"{size / 1e6:.1f} M" if size else ""
    return Cell(arm.student, note=note, heading=True), Cell(arm.target, color=colors.css(arm.target), heading=True)


def _zero_shot_column(results: ProjectResults, split: str, rule: str) -> tuple[str, list[Cell]]:
    cells, values, errors = [], [], []
    for arm in results.measured:
        numbers = arm.zero_shot(split, rule)
        origin = provenance(arm, f"zero_shot.{split}.{rule}.student")
        text = percent(numbers["student"]) if numbers else ""
        cells.append(Cell(text, origin, note=f"± {percent(numbers['standard_error'])}" if numbers else ""))
        values.append(numbers["student"] if numbers else -1.0)
        errors.append(numbers["standard_error"] if numbers else 0.0)
    first = results.numbers(split, rule) or {}
    key = f"zero_shot.{split}.{rule}"
    ceilings = [numbers["ceiling"] for arm in results.measured if (numbers := arm.zero_shot(split, rule))]
    below = [
        Cell(
            _span(ceilings), provenance(results.measured[0], f"{key}.ceiling"), note=ceiling_note(results, split, rule)
        ),
        Cell(percent(first.get("chance")), provenance(results.measured[0], f"{key}.chance")),
    ]
    return f"{split} · {rule}", [*_mark_best(cells, values, errors), *below]


def _span(ceilings: Sequence[float]) -> str:
    """Return the teacher's accuracy, or its range if arms have several teachers."""
    ends = sorted({percent(value) for value in (min(ceilings), max(ceilings))}, key=float) if ceilings else []
    return " to ".join(ends)


def _retrieval_column(results: ProjectResults, way: str, rule: str) -> tuple[str, list[Cell]]:
    cells, values, below = [], [], [Cell(""), Cell("")]
    for arm in results.measured:
        numbers = (arm.metrics or {}).get("retrieval", {}).get("val", {}).get(rule)
        value = numbers["student"][way]["R@1"] if numbers else None
        cells.append(
            Cell(percent(value), provenance(arm, f"retrieval.val.{rule}.student.{way}.R@1") if numbers else "")
        )
        values.append(-1.0 if value is None else value)
        if numbers:
            below = [
                Cell(percent(numbers[who][way]["R@1"]), provenance(arm, f"retrieval.val.{rule}.{who}.{way}.R@1"))
                for who in ("ceiling", "chance")
            ]
    return f"{way.replace('_to_', ' → ')} R@1 · {rule}", [*_mark_best(cells, values, [0.0] * len(cells)), *below]


def _time_column(results: ProjectResults) -> tuple[str, list[Cell]]:
    times = [(arm, arm.milliseconds(STUDENT)) for arm in results.measured]
    origin = "profile.json\npython cli.py profile"
    cells = [Cell(f"{ms:.1f}" if ms else "", f"{arm.folder.name}/{origin}") for arm, ms in times]
    teacher = next((ms for arm in results.measured if (ms := arm.milliseconds(TEACHER))), None)
    return "ms per image", [*cells, Cell(f"{teacher:.1f}" if teacher else ""), Cell("")]


def _mark_best(cells: Sequence[Cell], values: Sequence[float], errors: Sequence[float]) -> list[Cell]:
    """Make bold all values within one standard error of the best, and those that print the same."""
    best = max(range(len(values)), key=lambda i: values[i])
    near = [v >= values[best] - errors[best] or c.text == cells[best].text for v, c in zip(values, cells, strict=True)]
    return [replace(cell, best=bool(cell.text) and bold) for cell, bold in zip(cells, near, strict=True)]


def accuracy_figure(results: ProjectResults, colors: Palette) -> FigureBlock:
    """Return one panel per set and rule: every arm between chance and the ceiling."""
    panels = []
    for split in results.sets:
        for rule in results.rules:
            numbers = [(arm, n) for arm in results.measured if (n := arm.zero_shot(split, rule))]
            if not numbers:
                continue
            dots = [Dot(arm.student, arm.target, n["student"], INTERVAL * n["standard_error"]) for arm, n in numbers]
            whose = f", ceiling of {numbers[0][0].target}" if len({n["ceiling"] for _, n in numbers}) > 1 else ""
            title = f"{split}, rule {rule}: top-1 accuracy{whose}"
            panels.append(dot_plot(title, dots, numbers[0][1]["ceiling"], numbers[0][1]["chance"], colors))
    marks = ", ".join(f"{_glyph(colors.markers[name])} {name}" for name in results.students)
    return FigureBlock(tuple(panels), f"{marks}. Lines: 95 % binomial intervals over the images of the set.")


def _glyph(marker: str) -> str:
    return {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}[marker]


def _number(arm: ArmResults, split: str, rule: str, name: str) -> float:
    return float((arm.zero_shot(split, rule) or {})[name])
