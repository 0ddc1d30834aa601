"""Which thing is where: scorers of images against captions on choice sets, beside plain cosine and chance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import percent
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock, TextBlock

LEAD = (
    "Captions that differ in nothing but which thing is where, and the image that one of them is true of. Text: the "
    "true caption scores highest; image: the right image does; group: all of it at once. Blind: the same scorer "
    "shown other images."
)
COLUMNS = ("set", "task", "tokens", "scorer", "text %", "image %", "group %", "blind %", "chance %", "questions")
STANDARD_ERRORS = 2.0


def relation_section(inputs: ReportInputs) -> ReportSection | None:
    """Tabulate accuracies of scorers of the teacher's tokens and of students'; None where there are none."""
    results = inputs.results
    models = results.layout.root / "models"
    scorers = {path.parent.name.removeprefix("relate-"): path for path in sorted(models.glob("relate-*/metrics.json"))}
    if not scorers:
        return None
    rows = list(_cosine(scorers))
    for name, path in scorers.items():
        rows += _rows(_read(path), "teacher", name, path)
        for arm in results.arms:
            if (own := arm.folder / f"relate-{name}.json").exists():
                sets = _read(own)["sets"]
                for whose in ("teacher's", "own"):
                    part = {"sets": {split: tasks[whose] for split, tasks in sets.items()}}
                    rows += _rows(part, arm.name, f"{name}, {whose}", own)
    rows.sort(key=lambda row: (row[0].text, row[1].text))
    blocks: list[Block] = [TableBlock("relations", COLUMNS, tuple(rows), "Accuracies in per cent.")]
    blocks += [TextBlock(line) for line in at_chance(_read(next(iter(scorers.values()))))]
    return ReportSection("Relations", blocks, LEAD)


def at_chance(metrics: dict[str, Any]) -> list[str]:
    """Return a sentence for each set on which plain cosine is within two standard errors of chance."""
    lines = []
    for split, tasks in metrics["sets"].items():
        blind = [task for task, scores in tasks.items() if _is_chance(scores["cosine"])]
        if blind:
            lines.append(
                f"{split}: the teacher’s own cosine is at chance on {', '.join(blind)}. Students that learn its "
                "embeddings inherit that; a scorer of its tokens need not (docs/dense.md)."
            )
    return lines


def _is_chance(accuracy: dict[str, Any]) -> bool:
    chance = accuracy["text_chance"]
    error = math.sqrt(chance * (1 - chance) / max(accuracy["questions"], 1))
    return bool(accuracy["text"] - chance <= STANDARD_ERRORS * error)


def _cosine(scorers: dict[str, Path]) -> Iterator[tuple[Cell, ...]]:
    path = next(iter(scorers.values()))
    for split, tasks in _read(path)["sets"].items():
        for task, scores in tasks.items():
            yield _row(split, task, ("teacher", "plain cosine"), scores["cosine"], None, path)


def _rows(metrics: dict[str, Any], tokens: str, scorer: str, path: Path) -> list[tuple[Cell, ...]]:
    return [
        _row(split, task, (tokens, scorer), scores["scorer"], scores["blind"], path)
        for split, tasks in metrics["sets"].items()
        for task, scores in tasks.items()
    ]


def _row(  # noqa: PLR0917  a row of the table, column by column
    split: str, task: str, who: tuple[str, str], accuracy: dict[str, Any], blind: float | None, path: Path
) -> tuple[Cell, ...]:
    origin = f"{path.parent.name}/{path.name} · sets/{split}/{task}"
    values = *(accuracy[name] for name in ("text", "image", "group")), blind, accuracy["text_chance"]
    heads = (Cell(split, heading=True), Cell(task, heading=True), *(Cell(name, heading=True) for name in who))
    return (*heads, *(Cell(percent(value), origin) for value in values), Cell(f"{accuracy['questions']:,}"))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
