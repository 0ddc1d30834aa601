"""Small CSV tables for the report and for `dvc plots`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import write_text

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet takes for a formula, possibly after apostrophes added here."""
DIGITS = 6
"""Significant digits, more than the precision of any of these numbers."""


@dataclass(frozen=True)
class CsvTable:
    """Named columns and rows."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def csv(self) -> str:
        """Return the table as CSV with six significant digits; None and NaN are empty cells.

        Text that a spreadsheet would take for a formula (`=`, `+`, `-`, `@` in front) gets an apostrophe, which
        `parse_table` removes.
        """
        text = io.StringIO()
        plain = csv.writer(text, lineterminator="\n")
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # older Pythons do not quote a lone \r
        for row in (self.columns, *self.rows):
            cells = [_cell(value) for value in row]
            (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)
        return text.getvalue()


def write_tables(folder: Path, tables: Mapping[str, CsvTable]) -> None:
    """Write each table to `<name>.csv`, and remove other tables of an earlier run."""
    for stale in folder.glob("*.csv"):
        if stale.stem not in tables:
            stale.unlink()
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.csv())


def parse_table(data: bytes) -> CsvTable:
    """Return a table as text cells."""
    lines = csv.reader(io.StringIO(data.decode(), newline=""))
    columns, *rows = [[_plain(cell) for cell in row] for row in lines] or [[]]
    return CsvTable(tuple(columns), rows)


def column(table: CsvTable, name: str) -> list[str]:
    """Return one column by name."""
    at = table.columns.index(name)
    return [row[at] for row in table.rows]


def round_numbers(value: Any) -> Any:
    """Return numbers, also nested in mappings and lists, with six digits, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): round_numbers(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [round_numbers(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if value - value == 0 else None
    return value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}" if value - value == 0 else ""
    text = "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if isinstance(value, str) and _FORMULA.match(text) and not _is_number(text) else text


def _plain(cell: str) -> str:
    """Return a cell without the added apostrophe."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
