"""A comparison whose arms are of different teachers: each is trained on its own, all are scored by the same rules."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.commands.compare import compare
from pipeline.comparison.params import CompareParams, ComparisonSetup
from pipeline.comparison.runner import Trial, TrialRunner
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from tests.stages.test_combined_teachers import embedded, fit, stores, train, unit  # noqa: F401  a fixture
from tests.stages.test_teachers import RUNTIME, SPLITS, image_weights, packed  # noqa: F401  fixtures

EVALUATE = EvaluateParams(map_pairs=0, neighbors=4)


@pytest.fixture
def layout(embedded: Layout, tmp_path: Path) -> Layout:  # noqa: F811
    shutil.copytree(embedded.root, tmp_path / "project")
    return Layout(tmp_path / "project")


def compared(layout: Layout, folder: Path, **changes: Any) -> Project:
    document = {
        "runtime": {"workers": 0, "batch": 16, "device": "cpu"},
        "index": {"splits": list(SPLITS)},
        "whiten": {
            "targets": ["one", "other", "blind", "ensemble", "heads"],
            "one": {"method": "scale", "teacher": "a"},
            "other": {"method": "scale", "teacher": "b"},
            "blind": {"method": "scale", "teacher": "c"},
            "ensemble": {"method": "scale", "teacher": ["a", "c"]},
            "heads": {"method": "phi-s", "teacher": ["a", "b"], "combine": "heads"},
        },
        "compare": {
            "student": "test_resnet",
            "targets": ["raw", "other", "ensemble", "heads"],
            "control": None,
            "epochs": [1],
            "learning_rates": [3e-3, 9e-3],
            "seeds": 2,
            "subset": 10,
            "selection_metric": "recall clip",
            "training": {"batch": 16, "image_size": 32},
            **changes,
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return Project.open(folder / "params.yaml", [], layout.root)


def runner(project: Project) -> TrialRunner:
    found = ComparisonSetup(project.section("compare", CompareParams), project).open()
    assert isinstance(found, TrialRunner)
    return found


def test_a_comparison_trains_and_scores_each_arm_by_its_own_teachers(layout: Layout, tmp_path: Path) -> None:
    """As `distill` and `evaluate` do: the same spaces, the same ceilings, the same scores of the same student."""
    made = runner(compared(layout, tmp_path))
    assert set(made.others) == {"other", "ensemble", "heads"}
    for name, params in (("other", "b"), ("ensemble", ["a", "c"])):
        assert made.arms[name].space.fingerprint == fit(layout, name, method="scale", teacher=params).fingerprint
    heads = fit(layout, "heads", method="phi-s", teacher=["a", "b"], combine="heads")
    assert made.arms["heads"].space.fingerprint == heads.fingerprint
    run = made.build(Trial("heads", 1, 3e-3, 1))
    assert [head.dim for head in run.feed.targets.heads] == [16, 24]
    # Arms of one teacher share what they are trained and scored on; a run is known by it.
    alone = runner(compared(layout, tmp_path, targets=["raw", "other"]))
    assert alone.facts() == made.facts()
    assert alone.arm_fingerprints == {name: made.arm_fingerprints[name] for name in ("raw", "other")}


def test_a_student_of_heads_is_scored_by_the_mean_of_its_heads_cosines(layout: Layout, tmp_path: Path) -> None:
    made = runner(compared(layout, tmp_path))
    eye, space = made.inputs_of("heads").evaluator, made.arms["heads"].space
    student = made.build(Trial("heads", 1, 3e-3, 1)).student.eval()
    found = eye.evaluate(student, space, full=True)
    rows = space.to_embedding(eye.zero_shot.full.embed(student, 32, 16))
    scores = np.zeros((len(rows), 10))
    for name, block in (("a", slice(0, 16)), ("b", slice(16, 40))):
        prompts = unit(np.asarray(stores(layout, "badges", name)[0].prompts().embedding))
        classes = unit(prompts.reshape(10, -1, prompts.shape[1]).mean(axis=1))
        scores += unit(rows[:, block]) @ classes.T
    labels = np.asarray(stores(layout, "badges", "a")[0].labels)
    assert found["clip"] == pytest.approx(np.mean(scores.argmax(axis=1) == labels))
    # The ceilings are those that `evaluate` writes beside the same rule.
    fit(layout, "heads", method="phi-s", teacher=["a", "b"], combine="heads")
    metrics = json.loads(evaluate(train(layout, "heads"), ["badges"], EVALUATE, layout, RUNTIME).read_text())
    written = {rule: found["ceiling"] for rule, found in metrics["zero_shot"]["badges"].items()}
    assert {rule: eye.ceilings()[rule] for rule in written} == pytest.approx(written)


def test_a_comparison_of_teachers_writes_each_arms_ceiling_and_no_contrast_of_other_teachers_variance(
    layout: Layout, tmp_path: Path
) -> None:
    out = compare(compared(layout, tmp_path), out=tmp_path / "told")
    ends = list(csv.DictReader((tmp_path / "told" / "ends.csv").read_text().splitlines()))
    rules = ("clip", "centered", "whitened", "soft")
    found = {(row["arm"], row["metric"]): float(row["ceiling"]) for row in ends if row["metric"] in rules}
    made = runner(compared(layout, tmp_path))
    own = {arm: made.inputs_of(arm).evaluator.ceilings() for arm in made.arms}
    assert found == pytest.approx({(arm, rule): own[arm][rule] for arm in own for rule in rules}, abs=1e-4)
    assert own["raw"] != own["other"]
    contrasts = list(csv.DictReader((tmp_path / "told" / "contrasts.csv").read_text().splitlines()))
    assert {row["arm"] for row in contrasts if row["metric"] == "clip"} == {"other", "ensemble", "heads"}
    assert not {row["arm"] for row in contrasts if row["metric"].startswith("r2")}
    assert out.exists()


def test_an_arm_that_nothing_can_score_is_refused_in_one_line(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"arm 'blind' is of timm:test_vit .*reads no text: zero-shot accuracy"):
        runner(compared(layout, tmp_path, targets=["raw", "blind"]))
    heads = {"method": "zca", "teacher": ["a", "b"], "combine": "heads"}
    placebo = {"arms": {"p": {"target": heads, "control": "permuted-spectrum"}}}
    with pytest.raises(UsageError, match="permuted-spectrum is a control of one space"):
        runner(compared(layout, tmp_path, targets=["raw", "p"], **placebo))
