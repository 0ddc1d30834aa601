"""Cells and tables that several sections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.page import Cell, TableBlock, TextBlock
from pipeline.reporting.palette import Palette
from pipeline.reporting.results import ArmResults, ProjectResults


@dataclass(frozen=True)
class MetricColumn:
    """A column: its title, where its number stands in metrics.json, and how it is written.

    `{who}` in the path is `student` in the rows of arms and `teacher` in the last one. The form `%` is per cent
    with one decimal; others are those of Python's format.
    """

    title: str
    path: str
    form: str = ".3f"

    def cell(self, arm: ArmResults, who: str = "student") -> Cell:
        """Return the number of an arm, or an empty cell."""
        path = self.path.format(who=who)
        value = get_path(arm.metrics or {}, path)
        return Cell("") if value is None else Cell(format_number(value, self.form), provenance(arm, path))


def metric_table(
    name: str,
    found: ProjectResults,
    colors: Palette,
    columns: Sequence[MetricColumn],
    caption: str,
    *,
    teacher: bool = True,
) -> TableBlock | TextBlock:
    """Return a row an arm and, below, one for the teacher; a sentence where there is no number at all."""
    body = [(*arm_cells(arm, colors), *(column.cell(arm) for column in columns)) for arm in found.measured]
    if not any(cell.text for row in body for cell in row[2:]):
        return empty_state(name, "python cli.py evaluate")
    if teacher:
        last = [c.cell(found.measured[0], "teacher") if "{who}" in c.path else Cell("") for c in columns]
        body.append((Cell("teacher", heading=True), Cell("", heading=True), *last))
    titles = ("student", "target space", *(column.title for column in columns))
    return TableBlock(name, titles, tuple(body), caption, reference_rows=int(teacher))


def get_path(metrics: Mapping[str, Any], path: str) -> Any:
    """Return what stands under a path of names joined by `/`, or None."""
    found: Any = metrics
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def format_number(value: float, form: str) -> str:
    """Return a number as a column writes it."""
    return percent(value) if form == "%" else f"{value:z{form}}"


def arm_cells(arm: ArmResults, colors: Palette) -> tuple[Cell, Cell]:
    """Return the two cells that begin the row of an arm."""
    return Cell(arm.student, heading=True), Cell(arm.target, color=colors.css(arm.target), heading=True)


def empty_state(what: str, command: str) -> TextBlock:
    """Return the sentence that stands where something is not there yet."""
    return TextBlock(f"No {what} yet: run `dvc repro`, or `{command}`.")


def provenance(arm: ArmResults, key: str) -> str:
    """Say where a number of an arm's metrics stands, and what makes it."""
    return f"{arm.folder.name}/metrics.json · {key}\n{arm.commands}"


def percent(value: float | str | None) -> str:
    """Return a share as per cent with one decimal, and nothing for none."""
    return "" if value is None or value == "" else f"{100 * float(value):.1f}"
