"""Tables as CSV: what is written is what is read, numbers at six digits, and no number is an empty cell."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.csv_tables import CsvTable, column, parse_table, round_numbers, write_tables


def test_a_table_comes_back_with_names_of_any_kind(tmp_path: Path) -> None:
    table = CsvTable(("name", "value"), [('a, "b"\nc', 0.123456789), ("ü", float("nan")), ("", None)])
    write_tables(tmp_path, {"t": table})
    found = parse_table((tmp_path / "t.csv").read_bytes())
    assert found.rows == [['a, "b"\nc', "0.123457"], ["ü", ""], ["", ""]]
    assert column(found, "value") == ["0.123457", "", ""]


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4))
def test_no_text_is_a_formula_and_every_text_comes_back(names: list[str]) -> None:
    written = CsvTable(tuple(names), [names]).csv()
    for row in csv.reader(io.StringIO(written, newline="")):
        assert [cell for cell in row if cell[:1] in tuple("=+-@\t\r") and not number(cell)] == []
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), {"t": CsvTable(tuple(names), [names])})
        found = parse_table((Path(folder) / "t.csv").read_bytes())
    assert found.columns == tuple(names)
    assert found.rows == [names]


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@SUM(A1)", "'=x", "''-x", "-", "=cmd|'/C calc'!A0"])
def test_what_a_spreadsheet_would_run_begins_with_an_apostrophe(name: str) -> None:
    assert next(csv.reader([CsvTable((name,), []).csv()]))[0] == f"'{name}"


def test_numbers_stay_numbers_whoever_wrote_them() -> None:
    assert CsvTable(("x",), [[-0.5], ["-0.5"], ["+1"], ["'tis"]]).csv() == "x\n-0.5\n-0.5\n+1\n'tis\n"


def number(text: str) -> bool:
    try:
        return float(text) is not None
    except ValueError:
        return False


def test_tables_of_an_earlier_run_are_removed_and_other_files_are_not(tmp_path: Path) -> None:
    write_tables(tmp_path, {"old": CsvTable(("x",), [])})
    (tmp_path / "note.txt").write_text("mine")
    write_tables(tmp_path, {"new": CsvTable(("x",), [])})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "note.txt"]


def test_numbers_are_rounded_wherever_they_stand_and_what_is_no_number_is_none() -> None:
    assert round_numbers({"a": [1 / 3, float("inf")], "b": {"c": "text", "d": True, "e": 5}}) == {
        "a": [0.333333, None],
        "b": {"c": "text", "d": True, "e": 5},
    }
