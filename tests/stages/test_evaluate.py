"""The evaluate stage on a small project: what it writes, that it repeats, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import MissingError, StaleError
from cache.manifest import Manifest, read_manifest, write_manifest
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import open_packed
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.layout import Layout
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.moments_file import save_moments
from tests.factories.project import RUNTIME, project
from tests.factories.stores import TEACHER

PARAMS = EvaluateParams(rules=("clip", "centered", "whitened", "soft"), map_pairs=10)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return project(tmp_path_factory.mktemp("project"), targets=("zca",))


def run(layout: Layout) -> tuple[Path, dict[str, Any]]:
    folder = layout.model("mobilenetv3", "zca")
    return folder, json.loads(evaluate(folder, ["badges"], PARAMS, layout, RUNTIME).read_text())


def test_every_rule_stands_beside_its_ceiling_and_chance(layout: Layout) -> None:
    _, metrics = run(layout)
    assert (metrics["student"], metrics["target"]) == ("mobilenetv3", "zca")
    for rule in PARAMS.rules:
        found = metrics["zero_shot"]["badges"][rule]
        assert found["chance"] == 0.1
        assert found["n"] == 40
        assert found["ceiling"] > 0.2  # the arithmetic teacher knows a little
        assert found["kept"] == pytest.approx(found["student"] / found["ceiling"], rel=1e-5)
        retrieval = metrics["retrieval"]["val"][rule]
        assert retrieval["ceiling"]["image_to_text"]["R@1"] > retrieval["chance"]["image_to_text"]["R@1"]
    assert metrics["agreement"]["val"]["r2_raw"] < 0.5  # the student never learnt anything


def test_ceilings_fitted_to_too_few_rows_say_so(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """80 training images, 24 dimensions."""
    folder, metrics = run(layout)
    assert metrics["reference_fit"]["dimensions"] == 24
    assert metrics["reference_fit"]["rows"]["image"] == 80
    said = capsys.readouterr().err
    assert "`whitened` and `soft` were fitted to 80 image rows, below 10 a dimension (240)" in said
    assert "text rows" not in said  # five captions an image are enough
    law = metrics["likelihood"]["val"]
    assert "p" not in law["images"]
    # Negative control: a rule that needs no covariance is not warned of.
    evaluate(folder, ["badges"], EvaluateParams(rules=("clip", "centered"), map_pairs=0), layout, RUNTIME)
    assert "fitted to" not in capsys.readouterr().err


def test_captions_are_counted_with_copies_and_without(layout: Layout) -> None:
    _, metrics = run(layout)
    captions = [c for i in range(2) for s in open_packed(layout.packed("val")).read(i) for c in s.captions]
    assert metrics["captions"]["val"] == {"n": len(captions), "distinct": len(set(captions))}
    assert len(set(captions)) < len(captions)


def test_two_runs_write_the_same_bytes(layout: Layout) -> None:
    folder, _ = run(layout)
    files = [folder / "metrics.json", *sorted((folder / "tables").iterdir())]
    before = {path.name: path.read_bytes() for path in files}
    assert len(before) > 3
    run(layout)
    assert {path.name: path.read_bytes() for path in files} == before


def test_a_table_of_an_earlier_run_does_not_stay(layout: Layout) -> None:
    folder, _ = run(layout)
    (folder / "tables" / "cifar10-classes.csv").write_text("class\n")
    run(layout)
    assert not (folder / "tables" / "cifar10-classes.csv").exists()


def test_predictions_are_a_confusion_plot_for_dvc(layout: Layout) -> None:
    folder, metrics = run(layout)
    header, *rows = (folder / "tables" / "badges-predictions.csv").read_text().splitlines()
    assert header == "key,actual,predicted,teacher"
    right = [row.split(",")[1] == row.split(",")[2] for row in rows]
    assert sum(right) / len(right) == pytest.approx(metrics["zero_shot"]["badges"]["clip"]["student"])


def test_a_student_of_another_teacher_is_refused(project_copy: Layout) -> None:
    card = project_copy.model("mobilenetv3", "zca") / "student.json"
    changed = read_checksummed_json(card)
    write_checksummed_json(card, {**changed, "teacher": {**changed["teacher"], "weights": "1" * 64}})
    with pytest.raises(StaleError, match=r"teacher \w+ \(made-up\), but \w+ \(made-up\) is at hand\. Run `dvc repro`"):
        run(project_copy)


def test_a_set_that_was_never_packed_is_named_with_what_to_do(layout: Layout) -> None:
    with pytest.raises(MissingError, match=r"cifar10.*pack --split cifar10"):
        evaluate(layout.model("mobilenetv3", "zca"), ["cifar10"], PARAMS, layout, RUNTIME)


@pytest.mark.project(targets=("raw",))
def test_without_captions_retrieval_is_left_out_and_only_clip_s_rule_stands(project_copy: Layout) -> None:
    layout = project_copy
    for split in ("train", "val"):
        folder = layout.embeddings(split)
        found = read_manifest(folder)
        parts = {name: part for name, part in found.parts.items() if name != "text"}
        write_manifest(folder, Manifest(found.split, found.teacher, found.source, found.versions, found.batch, parts))
        shutil.rmtree(folder / "text")
    images = EmbeddingStore.open(layout.embeddings("train")).image().load()
    save_moments(layout.moments, {"l2": estimate_comoments("l2", [images])}, TEACHER, "", "all")
    metrics = json.loads(evaluate(layout.model("mobilenetv3", "raw"), ["badges"], PARAMS, layout, RUNTIME).read_text())
    assert "retrieval" not in metrics
    assert list(metrics["zero_shot"]["badges"]) == ["clip"]
