"""Several teachers of one split: each one's embeddings are kept apart, and none is asked twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from cache.errors import StaleError
from cache.reader import EmbeddingStore
from cache.teachers import find_folders, teacher_folders, teacher_names
from pipeline.commands.gc import gc
from pipeline.commands.info import info
from pipeline.commands.integrity_checks import check_embeddings, collect_faults
from pipeline.data.sources.registry import parse_source
from pipeline.data.synthetic.world import render_image
from pipeline.distill import DistillParams, distill
from pipeline.embed import EmbedParams, embed
from pipeline.evaluation.metrics.probes import knn_accuracy
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime, parse
from pipeline.students.inputs.splits import open_split
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.whiten import TargetParams, whiten
from tests.stages.test_embed import files

ROOT = Path(__file__).parent.parent.parent
RUNTIME = Runtime(device="cpu", workers=0, batch=16, teacher_batch=8)
IMAGES = {"train": 40, "val": 16, "badges": 20}
SPLITS = tuple(IMAGES)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Return a project with packed splits. Do not change it: copy its root."""
    layout = Layout(tmp_path_factory.mktemp("packed"))
    for split, images in IMAGES.items():
        extra = {"templates": "simple"} if split == "badges" else {}
        source = parse_source({"source": "sample", "part": split, "images": images, **extra}, f"index.{split}")
        index(split, source, layout)
        pack(split, source, PackParams(shard_rows=16), layout, RUNTIME)
    return layout


@pytest.fixture
def layout(packed: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(packed.root, tmp_path / "project")
    return Layout(tmp_path / "project")


@pytest.fixture(scope="session")
def image_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of a timm model in a file, a classifier among them."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


def image_model(path: Path) -> dict[str, Any]:
    return {"model": "timm:test_vit", "pretrained": str(path)}


def embed_all(layout: Layout, section: dict[str, Any], splits: tuple[str, ...] = SPLITS) -> None:
    for split in splits:
        embed(split, parse(section, "embed", EmbedParams), layout, RUNTIME)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the images that each teacher is asked about, by its width."""
    counts: dict[str, int] = {}
    forward: Callable[..., Any] = Teacher.forward_images

    def call(self: Teacher, rows: np.ndarray) -> Any:
        counts[self.identity.model] = counts.get(self.identity.model, 0) + len(rows)
        return forward(self, rows)

    monkeypatch.setattr(Teacher, "forward_images", call)
    return counts


def train_student(layout: Layout, target: str = "scale") -> Path:
    moments(MomentsParams(), layout, RUNTIME)
    whiten(target, TargetParams(method="scale"), layout)
    params = {"training": {"epochs": 1, "batch": 16, "image_size": 32, "num_validations": 1}, "loss": {"fd": 1.0}}
    recipe = DistillParams.model_validate({**params, "student": {}})
    return distill("test_resnet", target, recipe, layout, RUNTIME, layout.model("test_resnet", target))


def test_one_teacher_by_name_trains_the_same_student_byte_for_byte(
    packed: Layout, tmp_path: Path, tiny_teacher: str
) -> None:
    students = []
    sections: dict[str, dict[str, Any]] = {
        "one": {"teacher": {"model": tiny_teacher}},
        "a": {"teachers": {"a": {"model": tiny_teacher}}},
    }
    for name, section in sections.items():
        shutil.copytree(packed.root, tmp_path / name)
        layout = Layout(tmp_path / name)
        embed_all(layout, section)
        students.append(files(train_student(layout)))
    assert students[0] == students[1]
    kept = [files(tmp_path / name / "data" / "embeddings") for name in ("one", "a")]
    extra = {f"{split}/teachers.json" for split in SPLITS}
    assert set(kept[1]) - set(kept[0]) == extra
    assert all(kept[0][name] == kept[1][name] for name in kept[0])


def test_a_second_teacher_embeds_nothing_of_the_first_again(
    layout: Layout, tiny_teacher: str, image_weights: Path, asked: dict[str, int]
) -> None:
    first = {"a": {"model": tiny_teacher}}
    embed_all(layout, {"teachers": first})
    student = files(train_student(layout))
    alone = files(layout.embeddings("train"))
    assert sum(asked.values()) == sum(IMAGES.values())
    asked.clear()
    embed_all(layout, {"teachers": {**first, "b": image_model(image_weights)}})
    assert asked == {f"timm:test_vit ({image_weights.name})": sum(IMAGES.values())}
    both = files(layout.embeddings("train"))
    assert {name: both[name] for name in alone if name != "teachers.json"} == {
        name: mark for name, mark in alone.items() if name != "teachers.json"
    }
    assert files(train_student(layout)) == student
    # A third in the second's place, then the second again: each is asked once.
    asked.clear()
    embed_all(layout, {"teachers": {**first, "b": {"model": "timm:test_resnet", "pretrained": "random"}}})
    assert list(asked) == ["timm:test_resnet (random)"]
    asked.clear()
    embed_all(layout, {"teachers": {**first, "b": image_model(image_weights)}})
    assert (asked, files(layout.embeddings("train"))) == ({}, both)


def test_the_order_of_teachers_says_who_is_first_and_embeds_nothing(
    layout: Layout, tiny_teacher: str, image_weights: Path, asked: dict[str, int]
) -> None:
    a, b = {"model": tiny_teacher}, {"model": "timm:test_resnet", "pretrained": "random"}
    embed_all(layout, {"teachers": {"a": a, "b": b}}, ("val",))
    asked.clear()
    embed_all(layout, {"teachers": {"b": b, "a": a}}, ("val",))
    assert asked == {}
    assert list(teacher_folders(layout.embeddings("val"))) == ["b", "a"]
    assert EmbeddingStore.open(layout.embeddings("val")).manifest.teacher["model"] == "timm:test_resnet (random)"


def test_an_image_model_from_a_file_embeds_what_timm_says_and_refuses_texts(
    layout: Layout, image_weights: Path
) -> None:
    from pipeline.data.images import decode
    from pipeline.data.packing.packed import open_packed
    from pipeline.data.views import apply_view, center_view

    embed_all(layout, {"teacher": image_model(image_weights)})
    store = EmbeddingStore.open(layout.embeddings("val"))
    assert sorted(store.manifest.parts) == ["image/view-00"]
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    from safetensors.torch import load_file

    weights = load_file(image_weights)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    config = timm.data.resolve_model_data_config(model)
    image = decode(next(iter(open_packed(layout.packed("val")).read(0))).image)
    pixels = apply_view(image, center_view(*image.size), config["input_size"][-1], config["interpolation"])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        said = model.eval()(((torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - mean) / std)[None])[0]
    np.testing.assert_allclose(store.image()[0], said.numpy(), rtol=1e-4, atol=1e-5)
    teacher = load_teacher(TeacherParams.model_validate(image_model(image_weights)), "cpu")
    with pytest.raises(UsageError, match=r"timm:test_vit \(test_vit.safetensors\) is an image model and reads no text"):
        teacher.tokenize(["a dog"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "expected `teacher: {model: …}`, or `teachers:"),
        ({"teacher": {"model": "a"}, "teachers": {"a": {"model": "a"}}}, "and not both"),
        ({"teachers": {}}, "at least one"),
        ({"teachers": {"a b": {"model": "a"}}}, "'a b' is no name"),
        ({"teachers": {"a+b": {"model": "a"}}}, "stands between the names"),
    ],
)
def test_teachers_that_cannot_be_told_apart_are_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(section, "embed", EmbedParams)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "timm:test_vitt", "pretrained": "random"}, "timm has no model 'test_vitt'; did you mean 'test_vit"),
        ({"model": "timm:test_vit"}, "which weights"),
        ({"model": "timm:test_vit", "pretrained": "nowhere.safetensors"}, "no weights 'nowhere.safetensors'"),
        ({"model": "timm:resnet18", "pretrained": "FILE"}, "could not be loaded: .* weights are missing"),
        ({"model": "ViT-B-32", "pretrained": "random", "image_size": 32}, "has a size of its own"),
    ],
)
def test_an_image_model_that_cannot_be_had_is_one_line(
    params: dict[str, Any], message: str, image_weights: Path
) -> None:
    wanted = {key: str(image_weights) if value == "FILE" else value for key, value in params.items()}
    with pytest.raises(UsageError, match=message) as error:
        load_teacher(TeacherParams.model_validate(wanted), "cpu")
    assert "\n" not in str(error.value)


def test_verify_info_and_gc_know_each_teacher(
    layout: Layout, tiny_teacher: str, image_weights: Path, asked: dict[str, int]
) -> None:
    two = {"teachers": {"a": {"model": tiny_teacher}, "b": image_model(image_weights)}}
    embed_all(layout, two)
    embed_all(layout, {"teachers": {**two["teachers"], "b": {"model": "timm:test_resnet", "pretrained": "random"}}})
    embed_all(layout, two)
    folder = layout.embeddings("train")
    check = lambda: check_embeddings(folder, layout.packed("train"))  # noqa: E731
    assert collect_faults(check) == []
    called = {facts.get("called") for facts in info(layout, SPLITS).teachers.values()}
    assert called == {"a", "b"}
    before = files(layout.root / "data" / "embeddings")
    assert any(path.name == "shard-00000.h5" for path in gc(layout, SPLITS, []).removed)
    asked.clear()
    embed_all(layout, two)
    assert (asked, files(layout.root / "data" / "embeddings")) == ({}, before)
    shard = folder / "teachers" / "b" / "image" / "view-00" / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    assert [str(shard) in fault for fault in collect_faults(check)] == [True]
    (folder / "teachers" / "stray.h5").write_bytes(b"")
    assert any("stray.h5: not in the manifest" in fault for fault in collect_faults(check))


def test_the_presets_image_model_names_what_is_drawn_and_reads_nothing() -> None:
    document = yaml.safe_load((ROOT / "presets" / "teachers.yaml").read_text(encoding="utf-8"))
    teachers = parse(document["embed"], "embed", EmbedParams).by_name
    assert list(teachers) == ["clip", "kinds"]
    weights = ROOT / str(teachers["kinds"].pretrained)
    assert weights.stat().st_size < 1 << 20
    teacher = load_teacher(teachers["kinds"].model_copy(update={"pretrained": str(weights)}), "cpu")
    assert not teacher.identity.reads_text
    badges = [render_image("badges", number) for number in range(120)]
    rows = teacher.embed_images(np.stack([badge.image for badge in badges]))
    labels = np.array([badge.label for badge in badges])
    assert knn_accuracy(rows, labels, k=5) > 0.7  # chance is a tenth
    assert knn_accuracy(rows, np.random.default_rng(0).permutation(labels), k=5) < 0.4  # negative control


def test_processes_that_share_the_shards_of_two_teachers_make_what_one_makes(
    layout: Layout, tiny_teacher: str, image_weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(layout.root, tmp_path / "alone")
    section = {"teachers": {"a": {"model": tiny_teacher}, "b": image_model(image_weights)}}
    embed_all(Layout(tmp_path / "alone"), section, ("train", "badges"))
    params = parse(section, "embed", EmbedParams)
    for split in ("train", "badges"):
        for rank in (1, 0):  # the last of them puts the split together
            embed(split, params, layout, RUNTIME, rank, 2)
            assert (layout.embeddings(split) / "manifest.json").exists() == (rank == 0)
        assert files(layout.embeddings(split)) == files(Layout(tmp_path / "alone").embeddings(split))


def test_twins_are_two_names_for_the_same_embeddings(layout: Layout, tiny_teacher: str, asked: dict[str, int]) -> None:
    embed_all(layout, {"teachers": {"a": {"model": tiny_teacher}, "b": {"model": tiny_teacher}}}, ("val",))
    assert sum(asked.values()) == IMAGES["val"]
    folders = teacher_folders(layout.embeddings("val"))
    assert files(folders["b"]).items() <= files(folders["a"]).items()
    facts = EmbeddingStore.open(folders["a"]).manifest.teacher
    assert teacher_names(layout.embeddings("val"), {"ensemble": [facts, facts]}) == ("a", "b")


def test_a_teacher_that_did_not_embed_a_split_is_refused(
    layout: Layout, tiny_teacher: str, image_weights: Path
) -> None:
    embed_all(layout, {"teachers": {"a": {"model": tiny_teacher}, "b": image_model(image_weights)}}, ("val",))
    folder = layout.embeddings("val")
    for name, path in teacher_folders(folder).items():
        store = EmbeddingStore.open(path)
        assert find_folders(folder, store.manifest.teacher) == [path], name
        assert open_split("val", layout, RUNTIME, store.manifest.teacher).store.folder == path
    with pytest.raises(StaleError, match=r"embedded from teacher .* but .* is at hand"):
        open_split("val", layout, RUNTIME, {"model": "another", "dim": 8})
