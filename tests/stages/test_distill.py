"""The stage: what it writes, what it refuses, and what it need not do twice."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import LockedError, MissingError, StaleError
from cache.reader import EmbeddingStore
from cache.work_store import WorkStore
from pipeline.distill import FILES, DistillParams, distill, read_params
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from pipeline.students.checkpoint import load_student, read_card
from pipeline.students.inputs.splits import open_split
from pipeline.students.run import TrainingRun
from pipeline.students.training.validation import nmse
from pipeline.whitening.spaces import load_space
from tests.factories.project import DIM, RUNTIME, embed_by_arithmetic
from tests.factories.stores import copy_as_split
from tests.factories.students import TINY

pytestmark = pytest.mark.project(students=())


def params(loss: dict[str, Any] | None = None, **training: Any) -> DistillParams:
    settings = {"epochs": 2, "batch": 16, "image_size": 16, "zero_shot_set": "badges", "num_validations": 2, **training}
    return DistillParams.model_validate({"training": settings, "loss": loss or {"fd": 1.0}, "student": {}})


def arm(layout: Layout, chosen: DistillParams | None = None, target: str = "zca", **options: Any) -> Path:
    return distill(TINY, target, chosen or params(), layout, RUNTIME, layout.model(TINY, target), **options)


def test_an_arm_is_weights_history_and_a_card_in_clip_space(project_copy: Layout) -> None:
    out = arm(project_copy)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    card, rows = read_card(out), list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["5", "10"]
    assert {"val_nmse", "zero_shot", "fd", "gradient_fd", "learning_rate", "epoch"} <= rows[0].keys()
    assert card["dim"] == DIM
    assert card["target"] == "zca"
    # The saved student gives the last row's figure back: it is the one that was looked at, un-whitened.
    space, val = load_space(project_copy.target("zca")), open_split("val", project_copy, RUNTIME)
    pixels = val.pixels(16, 1, project_copy, RUNTIME)
    from pipeline.students.inference import center_views

    said = center_views(val.store, pixels).embed(load_student(out), 16, 16)
    back = (said.astype(np.float64) - space.image.mean) @ space.image.forward
    assert nmse(back, space.to_target(val.store.image().load())) == pytest.approx(float(rows[-1]["val_nmse"]), rel=1e-3)


def test_the_same_arm_twice_is_the_same_bytes_and_no_work(
    project_copy: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = arm(project_copy)
    first = {name: (out / name).read_bytes() for name in FILES}
    shutil.rmtree(project_copy.store)
    for name in FILES:
        (out / name).unlink()
    assert {name: (arm(project_copy) / name).read_bytes() for name in FILES} == first
    shutil.rmtree(out)
    monkeypatch.setattr(TrainingRun, "train", None)
    assert {name: (arm(project_copy) / name).read_bytes() for name in FILES} == first


@pytest.mark.parametrize("name", FILES)
def test_a_finished_student_that_the_disk_damaged_is_trained_again(project_copy: Layout, name: str) -> None:
    out = arm(project_copy)
    first = {name: (out / name).read_bytes() for name in FILES}
    data = bytearray(first[name])
    data[len(data) // 2] ^= 1
    with (out / name).open("r+b") as file:  # in place: the store holds the same file under another name
        file.write(data)
    arm(project_copy, force=True)
    assert {name: (out / name).read_bytes() for name in FILES} == first


def test_another_experiment_in_the_way_is_refused_unless_forced(project_copy: Layout) -> None:
    arm(project_copy)
    with pytest.raises(UsageError, match=r"holds another experiment .* Pass --force to replace it"):
        arm(project_copy, params(seed=1))
    assert read_card(arm(project_copy, params(seed=1), force=True))["training"]["seed"] == 1
    with pytest.raises(UsageError, match="another experiment"):
        arm(project_copy)


def test_a_damaged_card_in_the_way_is_not_taken_for_the_same_experiment(project_copy: Layout) -> None:
    out = arm(project_copy)
    card = (out / "student.json").read_text()
    (out / "student.json").unlink()
    (out / "student.json").write_text(card[:-20])
    with pytest.raises(UsageError, match="unreadable"):
        arm(project_copy)


@pytest.mark.parametrize(
    "loss", [{"cosine": 1}, {"fd": 1, "icl": 0.1, "crd": 0.1, "gd": 0.01, "afd": 0.1, "bank_size": 16}]
)
def test_losses_without_length_and_losses_over_captions_end_in_clip_space_too(
    project_copy: Layout, loss: dict[str, Any]
) -> None:
    out = arm(project_copy, params(loss))
    assert (read_card(out)["radius"] is None) == ("fd" in loss)
    assert load_student(out).dim == DIM


def test_embeddings_of_another_teacher_or_other_images_are_refused(project_copy: Layout) -> None:
    store = EmbeddingStore.open(project_copy.embeddings("train"))
    shutil.copytree(project_copy.packed("val"), project_copy.root / "kept")
    shutil.rmtree(project_copy.packed("val"))
    copy_as_split(project_copy.packed("badges"), project_copy.packed("val"))
    with pytest.raises(StaleError, match=r"embedded from packed split .* is at hand"):
        arm(project_copy)
    shutil.rmtree(project_copy.packed("val"))
    (project_copy.root / "kept").rename(project_copy.packed("val"))
    shutil.rmtree(project_copy.packed("train"))
    copy_as_split(project_copy.packed("val"), project_copy.packed("train"))
    shutil.rmtree(project_copy.embeddings("train"))
    embed_by_arithmetic(project_copy, "train")
    assert EmbeddingStore.open(project_copy.embeddings("train")).rows != store.rows
    with pytest.raises(StaleError, match=r"fitted on embeddings .* Run `moments` and"):
        arm(project_copy)


def test_what_is_missing_is_named(project_copy: Layout) -> None:
    with pytest.raises(MissingError, match="none"):
        arm(project_copy, params(zero_shot_set="none"))
    with pytest.raises(UsageError, match="no student or timm model"):
        distill("nonsuch", "zca", params(), project_copy, RUNTIME, project_copy.run("x"))
    with pytest.raises(UsageError, match=r"'runtime\.device': 'cuda:7' is not there: .*; use auto or cpu"):
        distill(
            TINY, "zca", params(), project_copy, RUNTIME.model_copy(update={"device": "cuda:7"}), project_copy.run("x")
        )


def test_a_second_writer_of_the_same_arm_is_kept_out(project_copy: Layout) -> None:
    out = arm(project_copy)
    name = read_card(out)["fingerprint"]
    with WorkStore(project_copy.store).lock("distill", name), pytest.raises(LockedError, match="held by"):
        arm(project_copy)


def test_flips_without_a_target_are_refused_unless_called_free(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"

    def read(training: str) -> DistillParams:
        path.write_text(f"distill: {{training: {{{training}}}}}")
        return read_params(Project.open(path, (), tmp_path), "mobilenetv3")

    assert read("augmentation: free, flip: 0.5").training.flip == 0.5
    with pytest.raises(UsageError, match="the cache has no targets for flips"):
        read("flip: 0.5")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("loss: {}", "at least one weight above zero"),
        ("loss: {df: 1}", "unknown key 'distill.loss.df'; did you mean"),
        ("training: {epochs: 0}", "'distill.training.epochs': input should be greater than or equal to 1"),
        ("mobilenetv3: {learning_rte: 1}", "'distill.mobilenetv3.learning_rte'; did you mean 'learning_rate'"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_key(tmp_path: Path, section: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(f"distill: {{{section}}}")
    with pytest.raises(UsageError, match=words):
        read_params(Project.open(tmp_path / "params.yaml", (), tmp_path), "mobilenetv3")
