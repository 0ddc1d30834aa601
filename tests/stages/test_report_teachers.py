"""The report of students of several teachers: each arm beside its own ceilings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.layout import Layout
from pipeline.report import ReportParams, report
from tests.stages.test_combined_teachers import embedded, fit, train  # noqa: F401  a fixture
from tests.stages.test_teachers import RUNTIME, image_weights, packed  # noqa: F401  fixtures


@pytest.fixture
def layout(embedded: Layout, tmp_path: Path) -> Layout:  # noqa: F811
    shutil.copytree(embedded.root, tmp_path / "project")
    return Layout(tmp_path / "project")


def shown(layout: Layout, targets: list[str]) -> str:
    arms, splits = [("test_resnet", target) for target in targets], ["train", "val", "badges"]
    page = report(arms, splits, targets, ReportParams(samples=0), layout, rules=["clip"]).read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_each_head_stands_beside_its_own_teacher_and_ceilings_that_differ_are_a_range(layout: Layout) -> None:
    sizes = {"max_images": 40, "map_pairs": 0, "neighbors": 3, "normality_group_rows": 20}
    params = EvaluateParams.model_validate({**sizes, "rules": ["clip"]})
    heads = {"teacher": ["a", "c"], "combine": "heads"}
    targets: dict[str, dict[str, Any]] = {"one": {"teacher": "b"}, "both": heads, "seen": {"teacher": "c"}}
    metrics: dict[str, Any] = {}
    for name, options in targets.items():
        fit(layout, name, method="scale", **options)
        path = evaluate(train(layout, name), ["badges"], params, layout, RUNTIME)
        metrics[name] = json.loads(path.read_text(encoding="utf-8"))
    page = shown(layout, list(targets))
    assert "Each arm next to the ceilings of its teachers" in page
    ceilings = [metrics[name]["zero_shot"]["badges"]["clip"]["ceiling"] for name in ("one", "both")]
    head = metrics["both"]["teachers"]["a"]["zero_shot"]["badges"]["clip"]
    assert f"test_resnet-both a {100 * head['student']:.1f} / {100 * head['ceiling']:.1f}" in page
    assert "test_resnet-both c – –" in page
    low, high = sorted(f"{100 * ceiling:.1f}" for ceiling in ceilings)
    assert low == high or f"{low} to {high}" in page
    for name in "abc":
        assert f"of the embeddings by {name}" in page
    assert "Each arm next to the ceilings of its teachers" not in shown(layout, ["one"])
