"""The table of results: each accuracy beside its ceiling, and a sentence where there is none yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.commands.results import results
from pipeline.project.layout import Layout

WAYS = {"image_to_text": {"R@1": 0.4}, "text_to_image": {"R@1": 0.2}}
METRICS = {
    "zero_shot": {"badges": {"clip": {"student": 0.855, "ceiling": 0.979}}},
    "retrieval": {"val": {"clip": {"student": WAYS, "ceiling": WAYS}}},
}


def test_an_accuracy_stands_beside_its_ceiling_and_recall_is_the_mean_of_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    layout.model("tiny", "zca").mkdir(parents=True)
    (layout.model("tiny", "zca") / "metrics.json").write_text(json.dumps(METRICS))
    results([("tiny", "zca"), ("tiny", "raw")], ["badges", "unknown"], layout)
    shown = capsys.readouterr().out
    assert "85.5 / 97.9" in shown
    assert "30.0 / 30.0" in shown
    assert "no result for tiny-raw yet: run `dvc repro`" in shown
    assert "report:" not in shown


def test_where_the_report_lies_is_said_once_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    layout.report.parent.mkdir()
    layout.report.write_text("page")
    results([], [], layout)
    assert f"report: {layout.report.resolve()}" in capsys.readouterr().out
