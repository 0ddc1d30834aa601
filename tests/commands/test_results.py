"""The table of results: each accuracy beside its ceiling, and a sentence where there is none yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cache.atomic import write_checksummed_json
from cache.errors import DamagedError
from pipeline.commands.results import results, run_results
from pipeline.evaluation.model_files import write_evaluation
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout

WAYS = {"image_to_text": {"R@1": 0.4}, "text_to_image": {"R@1": 0.2}}
METRICS = {
    "zero_shot": {"badges": {"clip": {"student": 0.855, "ceiling": 0.979}}},
    "retrieval": {"val": {"clip": {"student": WAYS, "ceiling": WAYS}}},
}


def write_evaluated(folder: Path, metrics: dict[str, Any], **card: object) -> None:
    """Write the card of a student without weights, and its metrics."""
    card = {"student": "tiny", "target": "zca", "weights_sha256": "0" * 64, **card}
    write_checksummed_json(folder / "student.json", card)
    write_evaluation(folder, card, metrics, {})


def test_an_accuracy_stands_beside_its_ceiling_and_recall_is_the_mean_of_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    folder = layout.model("tiny", "zca")
    write_evaluated(folder, METRICS)
    results([("tiny", "zca"), ("tiny", "raw")], ["badges", "unknown"], layout)
    shown = capsys.readouterr().out
    assert "85.5 / 97.9" in shown
    assert "30.0 / 30.0" in shown
    assert "no result for tiny-raw yet: run `dvc repro`" in shown
    assert "report:" not in shown
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text().replace("0.855", "0.955"))
    with pytest.raises(DamagedError, match=r"metrics.json: damaged: SHA-256 .* `evaluate` again"):
        results([("tiny", "zca")], ["badges"], layout)


def test_where_the_report_lies_is_said_once_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    layout.report.parent.mkdir()
    layout.report.write_text("page")
    results([], [], layout)
    assert f"report: {layout.report.resolve()}" in capsys.readouterr().out


def test_rules_stand_in_the_order_of_the_params(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    both = {rule: {"student": 0.5, "ceiling": 0.9} for rule in ("centered", "clip")}  # as metrics.json sorts them
    write_evaluated(layout.model("tiny", "zca"), {"zero_shot": {"badges": both}})
    for rules in (("clip", "centered"), ("centered", "clip")):
        results([("tiny", "zca")], ["badges"], layout, rules)
        first, second = rules
        shown = capsys.readouterr().out
        assert 0 < shown.index(f"badges {first}") < shown.index(f"badges {second}")


def finished_run(layout: Layout, name: str, accuracy: float, target: str = "zca", watch: str = "badges") -> None:
    folder, numbers = layout.run(name), {"student": accuracy, "ceiling": 0.979, "chance": 0.1}
    write_evaluated(folder, {"zero_shot": {"badges": {"clip": numbers}}}, target=target, training={"watch": watch})
    rows = "".join(f"{epoch},{0.9 / epoch:.3f},{accuracy - 0.1 / epoch:.3f}\n" for epoch in (1, 2, 3))
    (folder / "history.csv").write_text(f"epoch,val_nmse,zero_shot\n{rows}")


def test_two_named_runs_stand_side_by_side_in_one_table_and_one_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    finished_run(layout, "a", 0.855)
    finished_run(layout, "b+c", 0.7)
    run_results(["a", "b+c", "a"], ["badges"], layout, ("clip",))
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if "tiny" in line]
    assert [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows] == [
        ["a", "tiny", "zca", "85.5 / 97.9"],
        ["b+c", "tiny", "zca", "70.0 / 97.9"],
    ]
    drawn = (tmp_path / "report" / "runs.svg").read_text(encoding="utf-8")
    assert "zero-shot top-1 during training on badges. At the end: a 0.822, b+c 0.667." in drawn
    assert all(f">{name}</text>" in drawn for name in ("a", "b+c", "ceiling", "chance"))


def test_runs_watched_on_different_sets_have_no_ceiling_in_common(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    finished_run(layout, "a", 0.855)
    finished_run(layout, "b", 0.7, watch="icons")
    for name in ("metrics.json", "evaluation.json"):
        (layout.run("b") / name).unlink()
    run_results(["a", "b"], ["badges"], layout)
    assert "no result for run b yet: `python cli.py evaluate --name b`" in capsys.readouterr().out
    drawn = (tmp_path / "report" / "runs.svg").read_text(encoding="utf-8")
    assert ">ceiling</text>" not in drawn
    (layout.run("b") / "history.csv").write_text("epoch,val_nmse\n1,0.9\n2,0.8\n")
    run_results(["a", "b"], ["badges"], layout)
    drawn = (tmp_path / "report" / "runs.svg").read_text(encoding="utf-8")
    assert "NMSE on val during training, each run in its own target space" in drawn


def test_a_run_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(UsageError, match=r"--name longer: no finished run in .*; there is none yet"):
        run_results(["longer"], [], layout)
    finished_run(layout, "longer", 0.5)
    with pytest.raises(UsageError, match=r"there are longer.*longer.*Make one: `distill --name longr`"):
        run_results(["longr"], [], layout)
