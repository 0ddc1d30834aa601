"""The head of a student of several teachers that is exported is a student of that teacher alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipeline.commands.export import ExportOptions, export, parse_export_options
from pipeline.commands.export_head import folder_to_export
from pipeline.deployment.labels import labels_of_split
from pipeline.deployment.predictor import open_model
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.students.checkpoint import load_student
from pipeline.students.inference import embed_pixels
from tests.stages.test_combined_teachers import embedded, fit, stores, train  # noqa: F401  a fixture
from tests.stages.test_teachers import RUNTIME, image_weights, packed  # noqa: F401  fixtures

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def layout(embedded: Layout, tmp_path: Path) -> Layout:  # noqa: F811
    shutil.copytree(embedded.root, tmp_path / "project")
    return Layout(tmp_path / "project")


@pytest.mark.parametrize("kind", ["linear", "mlp", "cosine"])
def test_each_head_says_what_the_whole_student_says_in_its_teachers_space(layout: Layout, kind: str) -> None:
    combine = "ensemble" if kind == "cosine" else "heads"
    fit(layout, "both", method="scale", teacher=["a", "b"], combine=combine)
    head = {"kind": "mlp", "hidden": 12} if kind == "mlp" else {}
    folder = train(layout, "both", {"cosine": 1.0} if kind == "cosine" else {"fd": 1.0}, head=head)
    whole = embed_pixels(load_student(folder), PIXELS)
    for name, block in (("a", slice(0, 16)), ("b", slice(16, 40))):
        out = folder_to_export(folder, name, layout)
        assert out == layout.run(f"test_resnet-both-{name}")
        single = load_student(out)
        np.testing.assert_allclose(embed_pixels(single, PIXELS), whole[:, block] * np.sqrt(2), rtol=1e-4, atol=1e-5)
        assert single.card["teacher"] == stores(layout, "val", name)[0].manifest.teacher
        if kind == "mlp":
            assert cast(Any, single.head)[0].weight.shape[0] == 12
    assert folder_to_export(folder, "b", layout) == layout.run("test_resnet-both-b")  # again: the same place


def test_an_exported_head_has_its_own_teachers_labels_and_scores(layout: Layout) -> None:
    fit(layout, "both", method="scale", teacher=["a", "b"], combine="heads")
    folder = train(layout, "both")
    params = EvaluateParams(max_images=40, map_pairs=0, neighbors=3, normality_group_rows=20)
    whole = json.loads(evaluate(folder, ["badges"], params, layout, RUNTIME).read_text())
    out = folder_to_export(folder, "b", layout)
    alone = json.loads(evaluate(out, ["badges"], params, layout, RUNTIME).read_text())
    for rule in ("clip", "whitened"):
        assert alone["zero_shot"]["badges"][rule] == whole["teachers"]["b"]["zero_shot"]["badges"][rule]
    form = parse_export_options(out, "onnx", False, "clip", "badges", ["badges"], layout)
    made = export(out, layout.exports / out.name, form, layout, RUNTIME)
    assert made.parity is not None
    assert made.parity.mean_cosine > 0.9999
    teacher = stores(layout, "badges", "b")[0].manifest.teacher
    assert form.labels is not None
    np.testing.assert_array_equal(form.labels.vectors, labels_of_split("badges", layout, teacher).vectors)
    assert form.labels.vectors.shape[1] == 24
    assert open_model(made.folder).teacher == teacher
    with pytest.raises(UsageError, match="is of several teachers, and the head of one"):
        parse_export_options(out, "onnx", False, "whitened", None, ["badges"], layout)


def test_what_cannot_be_exported_is_one_line(layout: Layout) -> None:
    fit(layout, "both", method="scale", teacher=["a", "c"], combine="heads")
    fit(layout, "one", method="scale", teacher="b")
    several, single = train(layout, "both"), train(layout, "one")
    with pytest.raises(UsageError, match=r"student of 2 teachers: which head.* Pass --head a"):
        folder_to_export(several, None, layout)
    with pytest.raises(UsageError, match=r"no head 'z' of a, c"):
        folder_to_export(several, "z", layout)
    with pytest.raises(UsageError, match="student of one teacher, local-dir:second: leave it out"):
        folder_to_export(single, "a", layout)
    assert folder_to_export(single, None, layout) == single
    images = folder_to_export(several, "c", layout)
    with pytest.raises(UsageError, match=r"--labels badges: timm:test_vit .* reads no text"):
        parse_export_options(images, "onnx", False, "clip", "badges", ["badges"], layout)
    assert export(images, layout.exports / "images", ExportOptions(), layout, RUNTIME).parity is not None
    shutil.copytree(single, layout.run("test_resnet-both-a"))
    with pytest.raises(UsageError, match="holds another run"):
        folder_to_export(several, "a", layout)
