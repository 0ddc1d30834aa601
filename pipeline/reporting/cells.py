"""Cells and empty states that several sections share."""

from __future__ import annotations

from pipeline.reporting.findings import Arm
from pipeline.reporting.page import Cell, Text
from pipeline.reporting.palette import Palette


def names(arm: Arm, colours: Palette) -> tuple[Cell, Cell]:
    """Return the two cells that begin the row of an arm."""
    return Cell(arm.student, heading=True), Cell(arm.target, colour=colours.css(arm.target), heading=True)


def nothing(what: str, command: str) -> Text:
    """Return the sentence that stands where something is not there yet."""
    return Text(f"No {what} yet: run `dvc repro`, or `{command}`.")


def source(arm: Arm, key: str) -> str:
    """Say where a number of an arm's metrics stands, and what makes it."""
    return f"{arm.folder.name}/metrics.json · {key}\n{arm.commands}"


def percent(value: float | str | None) -> str:
    """Return a share as per cent with one decimal, and nothing for none."""
    return "" if value is None or value == "" else f"{100 * float(value):.1f}"
