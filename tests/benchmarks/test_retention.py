"""The picture of what small students keep of their teacher."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import retention
from pipeline.students.backbones import STUDENTS

HEADER = "student,label,image_size,stem_stride,weights,accuracy,teacher_accuracy,command\n"


def test_each_run_is_measured_and_drawn_at_its_share_of_the_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    small, large = 'small,32,2,none,30.0,60.0,"distill, a"', "large,64,2,imagenet,45.0,60.0,distill"
    rows.write_text(f"{HEADER}test_resnet,{small}\ntest_resnet,{large}\n", encoding="utf-8")
    retention.main(["--rows", str(rows), "--out", str(tmp_path / "picture.svg")])
    assert re.findall(r"(\w+) .* of 60\.0 %: (.*)", capsys.readouterr().out) == [("small", "0.50"), ("large", "0.75")]
    svg = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert "small 50%, large 75%" in svg
    assert svg.count("</svg>") == 1


def test_the_runs_in_the_table_name_students_that_exist_and_shares_below_one() -> None:
    rows = retention.read_rows(retention.ROWS)
    assert rows
    assert all(0 < row.retention < 1 for row in rows)
    assert all(row.student in STUDENTS for row in rows)
