"""Tables as CSV: what is written is what is read, numbers at six digits, and no number is an empty cell."""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluation.csv_tables import CsvTable, column, read_table, round_numbers, write_tables


def test_a_table_comes_back_with_names_of_any_kind(tmp_path: Path) -> None:
    table = CsvTable(("name", "value"), [('a, "b"\nc', 0.123456789), ("ü", float("nan")), ("", None)])
    write_tables(tmp_path, {"t": table})
    found = read_table(tmp_path / "t.csv")
    assert found is not None
    assert found.rows == [['a, "b"\nc', "0.123457"], ["ü", ""], ["", ""]]
    assert column(found, "value") == ["0.123457", "", ""]


def test_tables_of_an_earlier_run_are_removed_and_other_files_are_not(tmp_path: Path) -> None:
    write_tables(tmp_path, {"old": CsvTable(("x",), [])})
    (tmp_path / "note.txt").write_text("mine")
    write_tables(tmp_path, {"new": CsvTable(("x",), [])})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "note.txt"]


def test_a_missing_table_is_none(tmp_path: Path) -> None:
    assert read_table(tmp_path / "none.csv") is None


def test_numbers_are_rounded_wherever_they_stand_and_what_is_no_number_is_none() -> None:
    assert round_numbers({"a": [1 / 3, float("inf")], "b": {"c": "text", "d": True, "e": 5}}) == {
        "a": [0.333333, None],
        "b": {"c": "text", "d": True, "e": 5},
    }
