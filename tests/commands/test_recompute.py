"""The teacher is asked again, and small differences count where whitening magnifies them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cache.errors import StaleError
from cache.reader import EmbeddingStore
from pipeline.commands.recompute import (
    COSINE,
    NOISE_WORST,
    check_rows,
    print_recompute,
    recompute,
    require_within_tolerance,
)
from pipeline.data.sources.registry import parse_source
from pipeline.data.views import ViewParams
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime, parse
from pipeline.project.project import Project
from pipeline.project.terminal import PlainConsole
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams, named_teachers
from tests.contract.crash_driver import SHARD_ROWS, SHARDS, lay_out
from tests.stages.test_teachers import image_model, image_weights  # noqa: F401  a fixture

RUNTIME = Runtime(workers=0, batch=16, device="cpu")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> Layout:
    made = lay_out(tmp_path_factory.mktemp("recompute"))
    params = EmbedParams(teacher=TeacherParams(model=tiny_teacher), views=ViewParams(crops=1, flip=1.0))
    embed("train", params, made, RUNTIME)
    moments(MomentsParams(), made, RUNTIME)
    return made


@pytest.fixture
def teacher(tiny_teacher: str) -> TeacherParams:
    return TeacherParams(model=tiny_teacher)


def test_an_undisturbed_cache_is_what_the_teacher_says(layout: Layout, teacher: TeacherParams, tmp_path: Path) -> None:
    found = recompute(layout, ["train"], teacher, 20, RUNTIME)
    require_within_tolerance(found)
    assert [one.part for one in found] == ["image/view-00", "image/view-01", "text"]
    assert [one.rows for one in found][:2] == [20, 20]
    assert found[2].rows >= 20
    # Another batch size moves the last bits only: float32 noise in whitened directions is at most 3e-8.
    assert all(one.noise_worst < 1e-6 and one.worst[0][1] > 1 - 1e-6 for one in found)
    console = PlainConsole(record=True, width=200, file=(tmp_path / "shown").open("w"))
    print_recompute(found, console)
    console.file.close()
    assert found[0].worst[0][0] in console.export_text()


def test_more_rows_than_there_are_are_all_that_can_be_read(layout: Layout, teacher: TeacherParams) -> None:
    found = recompute(layout, ["train"], teacher, 10_000, RUNTIME)
    assert found[0].rows == min(8, SHARDS) * SHARD_ROWS


def test_another_draw_asks_about_other_rows(layout: Layout, teacher: TeacherParams) -> None:
    keys = [
        {key for one in recompute(layout, ["train"], teacher, 4, RUNTIME, seed) for key, _ in one.worst}
        for seed in (0, 1)
    ]
    assert keys[0] != keys[1]


def test_another_precision_is_another_teacher(layout: Layout, teacher: TeacherParams) -> None:
    with pytest.raises(StaleError, match=r"embedded from teacher [0-9a-f]{12} .*, but"):
        recompute(layout, ["train"], teacher.model_copy(update={"precision": "bf16"}), 4, RUNTIME)


def disturbed(monkeypatch: pytest.MonkeyPatch, noise: np.ndarray) -> None:
    truly = Teacher.embed_images
    monkeypatch.setattr(Teacher, "embed_images", lambda self, pixels: truly(self, pixels) + noise.astype(np.float32))


def test_noise_that_a_cosine_does_not_see_is_found_where_whitening_magnifies_it(
    layout: Layout, teacher: TeacherParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = EmbeddingStore.open(layout.embeddings("train")).image().load()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(unit.T))
    floor = 0.01 * values.mean()
    disturbed(
        monkeypatch,
        np.sqrt(2 * NOISE_WORST * max(values[0], floor)) * np.linalg.norm(rows, axis=1).mean() * vectors[:, 0],
    )
    found = recompute(layout, ["train"], teacher, 20, RUNTIME)[0]
    assert found.worst[0][1] >= COSINE
    assert found.noise_worst > NOISE_WORST
    with pytest.raises(PipelineError, match=r"train/image/view-00: the teacher says something else"):
        require_within_tolerance([found])


def test_another_answer_shows_the_worst_row_by_its_key(
    layout: Layout, teacher: TeacherParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed(monkeypatch, np.eye(16)[3] * 0.5)
    found = recompute(layout, ["train"], teacher, 20, RUNTIME)[0]
    assert found.worst[0][1] < COSINE
    assert found.worst == tuple(sorted(found.worst, key=lambda pair: pair[1]))
    with pytest.raises(PipelineError, match=found.worst[0][0]):
        require_within_tolerance([found])


def test_each_teacher_and_each_part_of_captions_is_asked_again(
    tmp_path: Path,
    tiny_teacher: str,
    image_weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [{"image": f"{n:06d}", "caption": [f"a {n}", f"the {n}"]} for n in range(0, 40, 2)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    value: dict[str, Any] = {
        "source": "sample",
        "part": "train",
        "images": 40,
        "caption_files": {"s": {"file": str(tmp_path / "c.jsonl")}},
    }
    teachers = {"a": {"model": tiny_teacher}, "b": image_model(image_weights)}
    document = {"index": {"splits": ["train"], "train": value}, "embed": {"teachers": teachers}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    project = Project.open(tmp_path / "params.yaml", [], tmp_path / "project")
    made, source = project.layout, parse_source(value, "index.train")
    index("train", source, made)
    pack("train", source, PackParams(shard_rows=16), made, RUNTIME)
    embed("train", parse(document["embed"], "embed", EmbedParams), made, RUNTIME)
    moments(MomentsParams(), made, RUNTIME)
    check_rows(project, ["train", "val"], 10, 0)
    assert "embedded again" in capsys.readouterr().out
    labels = [
        found.label
        for name, params in named_teachers(project).items()
        for found in recompute(made, ["train"], params, 10, RUNTIME, name=name)
    ]
    parts = ["captions/s by a", "image/view-00 by a", "text by a", "image/view-00 by b"]
    assert labels == [f"train/{part}" for part in parts]
    # The second one alone says something else now.
    truly = Teacher.embed_images
    monkeypatch.setattr(
        Teacher, "embed_images", lambda self, pixels: truly(self, pixels) + (0.0 if self.identity.reads_text else 0.5)
    )
    with pytest.raises(PipelineError, match=r"train/image/view-00 by b: the teacher says something else"):
        check_rows(project, ["train"], 10, 0)
    with pytest.raises(StaleError, match=r"but [0-9a-f]{12} \(timm:test_resnet \(random\)\) is at hand"):
        recompute(made, ["train"], TeacherParams(model="timm:test_resnet", pretrained="random"), 4, RUNTIME)
