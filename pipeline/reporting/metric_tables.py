"""Cells and tables shared by several sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.page import Cell, TableBlock, TextBlock
from pipeline.reporting.palette import Palette
from pipeline.reporting.results import ArmResults, ProjectResults


@dataclass(frozen=True)
class MetricColumn:
    """A column: its title, the path of its value in metrics.json, and its format.

    `{who}` in the path is `student` in the rows of arms and `teacher` in the last one. The format `%` is per cent with
    one decimal; others are Python's format specifications.
    """

    title: str
    path: str
    form: str = ".3f"

    def cell(self, arm: ArmResults, who: str = "student") -> Cell:
        """Return the value of an arm, or an empty cell."""
        path = self.path.format(who=who)
        value = get_path(arm.metrics or {}, path)
        return Cell("") if value is None else Cell(format_number(value, self.form), provenance(arm, path))


def metric_table(
    name: str,
    results: ProjectResults,
    colors: Palette,
    columns: Sequence[MetricColumn],
    caption: str,
    *,
    teacher: bool = True,
) -> TableBlock | TextBlock:
    """Return one row per arm and a last one for the teacher; a sentence if there are no values."""
    body = [(*arm_cells(arm, colors), *(column.cell(arm) for column in columns)) for arm in results.measured]
    if not any(cell.text for row in body for cell in row[2:]):
        return empty_state(name, "python cli.py evaluate")
    if teacher:
        last = [c.cell(results.measured[0], "teacher") if "{who}" in c.path else Cell("") for c in columns]
        body.append((Cell("teacher", heading=True), Cell("", heading=True), *last))
    titles = ("student", "target space", *(column.title for column in columns))
    return TableBlock(name, titles, tuple(body), caption, reference_rows=int(teacher))


def get_path(metrics: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path of names joined by `/`, or None."""
    value: Any = metrics
    for name in path.split("/"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def format_number(value: float, form: str) -> str:
    """Return a number in a column's format."""
    return percent(value) if form == "%" else f"{value:z{form}}"


def arm_cells(arm: ArmResults, colors: Palette) -> tuple[Cell, Cell]:
    """Return the first two cells of an arm's row."""
    return Cell(arm.student, heading=True), Cell(arm.target, color=colors.css(arm.target), heading=True)


def empty_state(what: str, command: str) -> TextBlock:
    """Return the sentence for missing results."""
    return TextBlock(f"No {what} yet: run `dvc repro`, or `{command}`.")


def provenance(arm: ArmResults, key: str) -> str:
    """Return the file and key of a metric, and the command that makes it."""
    return f"{arm.folder.name}/metrics.json · {key}\n{arm.commands}"


def percent(value: float | str | None) -> str:
    """Return a fraction as per cent with one decimal; empty for None."""
    return "" if value is None or value == "" else f"{100 * float(value):.1f}"
