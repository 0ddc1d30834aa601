"""Each parameter of the presets flipped by itself: what is there already decides no byte of the result."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.sources.registry import parse_source
from pipeline.distill import distill, read_params
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime, load_params, lookup
from pipeline.project.project import Project
from pipeline.whiten import whiten
from pipeline.whitening.spaces import TargetParams
from tests import ROOT
from tests.factories.students import TINY

STAGES = ("index", "pack", "embed", "moments", "whiten", "distill")
"""Those that keep finished work, or stand between: `evaluate` and `report` compute all of theirs each time."""
DOCUMENT: dict[str, Any] = {
    "index": {
        "splits": ["train", "val", "badges"],
        "train": {"source": "sample", "part": "train", "images": 12},
        "val": {"source": "sample", "part": "val", "images": 6},
        "badges": {"source": "sample", "part": "badges", "images": 10, "templates": "bare"},
    },
    "pack": {"shard_rows": 6},
    "embed": {"views": {"crops": 1}, "text_slice": {"width": 16, "layers": 0}},
    "moments": {"pre_norm": ["l2", "none"]},
    "whiten": {"targets": ["zca"], "zca": {"method": "zca", "floor": 0.1}},
    "distill": {
        "students": [TINY],
        "targets": ["zca"],
        "training": {"epochs": 1, "batch": 6, "image_size": 16, "num_validations": 1, "zero_shot_set": "badges"},
        "loss": {"fd": 1.0, "icl": 0.1},
        TINY: {"text": {"layers": 1, "width": 16, "heads": 2, "context": 12}},
    },
}
LABELED: dict[str, Any] = {
    "index": {
        "splits": ["train", "val"],
        "train": {
            "source": "several",
            "sources": {
                "painting": {
                    "source": "sample",
                    "part": "painting",
                    "images": 10,
                    "templates": ["a painting of a {c}"],
                },
                "sketch": {"source": "sample", "part": "sketch", "images": 10, "templates": ["a sketch of a {c}"]},
            },
        },
        "val": {"source": "sample", "part": "print", "images": 10, "templates": "bare"},
    },
    "pack": {"shard_rows": 6},
    "moments": {},
    "whiten": {"targets": ["zca"], "zca": {"method": "raw"}},
    "distill": {
        "students": [TINY],
        "targets": ["zca"],
        "training": {"epochs": 1, "batch": 5, "image_size": 16},
        "loss": {
            "label": 0.2,
            "kd": {"weight": 0.8, "temperature": 3.0},
            "rise_absolute": 1.0,
            "rise_relative": {"weight": 1.0, "anchors": "domains", "measure": "mse"},
        },
    },
}
"""A labelled split of two domains, taught by its words: what DOCUMENT cannot have."""
FLIPS: dict[str, Any] = {
    "index.train.images": 13,
    "index.train.part": "val",
    "index.badges.templates": "simple",
    "pack.limit": 8,
    "pack.max_skipped_fraction": 0.5,
    "pack.quality": 50,
    "pack.resize": 16,
    "pack.shard_rows": 5,
    "embed.teacher.precision": "bf16",
    "embed.text_slice.width": 8,
    "embed.views.crops": 0,
    "embed.views.flip": 1.0,
    "embed.views.ratio": [0.9, 1.1],
    "embed.views.scale": [0.9, 1.0],
    "embed.views.seed": 1,
    "moments.captions": "first",
    "moments.pre_norm": ["none", "l2"],
    "whiten.zca.eps": 1e-3,
    "whiten.zca.floor": 0.2,
    "whiten.zca.method": "soft-zca",
    "whiten.zca.post_norm": "l2",
    "whiten.zca.power": 0.7,
    "whiten.zca.pre_norm": "none",
    "distill.loss.cosine": 1.0,
    "distill.loss.fd": 2.0,
    "distill.loss.icl": 0.2,
    "distill.loss.infonce": 1.0,
    "distill.loss.temperature": 0.07,
    f"distill.{TINY}.learning_rate": 1e-2,
    f"distill.{TINY}.text.context": 10,
    f"distill.{TINY}.text.heads": 1,
    f"distill.{TINY}.text.layers": 2,
    f"distill.{TINY}.text.weights": "slice",
    f"distill.{TINY}.text.width": 32,
    "distill.training.batch": 4,
    "distill.training.max_captions": 1,
    "distill.training.epochs": 2,
    "distill.training.num_validations": 2,
    "distill.training.image_size": 24,
    "distill.training.optimizer": "adam",
    "distill.training.schedule": "constant",
    "distill.training.seed": 1,
    "distill.training.warmup": 0.9,
    "distill.training.zero_shot_set": None,
    "distill.training.weight_decay": 0.5,
}
LABELED_FLIPS: dict[str, Any] = {
    "index.train.sources.painting.images": 20,
    "index.train.sources.painting.part": "cartoon",
    "index.train.sources.painting.seed": 1,
    "index.train.sources.painting.templates": ["an oil painting of a {c}"],
    "distill.loss.label": 0.4,
    "distill.loss.kd.weight": 0.4,
    "distill.loss.kd.temperature": 1.0,
    "distill.loss.rise_absolute": 2.0,
    "distill.loss.rise_relative.weight": 5.0,
    "distill.loss.rise_relative.anchors": "classes",
    "distill.loss.rise_relative.measure": "kl",
}
WITHOUT_EFFECT = {
    "pack.max_skipped_fraction",
    "pack.quality",
    "pack.resize",
    "distill.training.warmup",
    "distill.training.num_validations",
    "moments.pre_norm",
}
"""Flipped here, these need not change a byte: no image is bad, drawn ones are not resized, there are two steps, …"""
ELSEWHERE = {
    "runtime": "decides no result",
    "relate": "scorers, by their facts: tests/stages/test_relate.py",
    "embed.tokens": "parts of their own beside the pooled ones: tests/stages/test_relate.py",
    "evaluate": "nothing of it is kept: DVC's table covers it",
    "report": "nothing of it is kept: DVC's table covers it",
    "index.splits": "which splits there are",
    "index.SPLIT.sources.DOMAIN.source": "another kind of source: tests/data/sources/test_composite.py",
    "index.SPLIT.sources.DOMAIN.splits": "a path to lists of names: tests/data/sources/test_composite.py",
    "index.SPLIT.caption_files": "parts of their own beside the captions: tests/stages/test_further_captions.py",
    "distill.training.caption_mix": "shares of further captions: tests/stages/test_caption_mix.py",
    "embed.teachers": "teachers by name: tests/stages/test_teachers.py",
    "whiten.TARGET.teacher": "spaces of several teachers: tests/stages/test_combined_teachers.py",
    "whiten.TARGET.combine": "spaces of several teachers: tests/stages/test_combined_teachers.py",
    "index.SPLIT.source": "another kind of source, with keys of its own: tests/data/sources/test_sources.py",
    "index.SPLIT.captions": "a path",
    "index.SPLIT.images": "flipped for train",
    "index.SPLIT.part": "flipped for train",
    "index.SPLIT.templates": "flipped for badges",
    "whiten.targets": "which target spaces there are",
    "distill.students": "which arms there are",
    "distill.targets": "which arms there are",
    "embed.teacher.model": "another teacher: tests/contract/test_dvc.py, tests/stages/test_embed.py",
    "embed.teacher.pretrained": "another teacher: tests/contract/test_dvc.py, tests/stages/test_embed.py",
    "distill.STUDENT.backbone.name": "another backbone: tests/students/test_backbones.py",
    "distill.STUDENT.backbone.weights": "weights of a file, by their hash: tests/students/test_backbones.py",
}


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def general(key: str, document: dict[str, Any]) -> str:
    """Return a key with SPLIT, TARGET and STUDENT for the names that a document gives to them."""
    parts = key.split(".")
    for section, names, word in (
        ("index", "index.splits", "SPLIT"),
        ("whiten", "whiten.targets", "TARGET"),
    ):
        if parts[0] == section and parts[1] in lookup(document, names):
            parts[1] = word
    if parts[0] == "index" and parts[2:3] == ["sources"]:
        parts[3] = "DOMAIN"
    if parts[0] == "distill" and parts[1] not in ("training", "loss", "students", "targets"):
        parts[1] = "STUDENT"
    return ".".join(parts)


def test_every_parameter_of_the_presets_is_flipped_or_named_with_a_reason() -> None:
    flipped = {general(key, DOCUMENT) for key in FLIPS} | {general(key, LABELED) for key in LABELED_FLIPS}
    for preset in sorted((ROOT / "presets").glob("*.yaml")):
        document = load_params(preset)
        keys = {general(key, document) for key in leaves(document)}
        known = flipped | {key for key in keys for other in ELSEWHERE if key == other or key.startswith(f"{other}.")}
        assert keys - known == set(), preset.name


def test_every_reason_names_a_test_that_is_there() -> None:
    named = {word.strip(",.:") for reason in ELSEWHERE.values() for word in reason.split() if "test_" in word}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_dvc_tracks_every_parameter_of_the_presets() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for preset in sorted((ROOT / "presets").glob("*.yaml")):
        document = load_params(preset)
        for key in leaves(document):
            stage = stages.get(key.split(".")[0])
            if stage is None:
                assert key.startswith("runtime."), key
                continue
            name = key.split(".")[1]
            tracked = [
                str(param)
                .replace("${item.split}", name)
                .replace("${item.target}", name)
                .replace("${item.scorer}", name)
                .replace("${item.student}", name)
                for param in stage["params"]
            ]
            matrix = [str(value)[2:-1] for value in stage.get("matrix", {}).values()]
            assert any(key == param or key.startswith(f"{param}.") for param in [*tracked, *matrix]), key


def flip(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *folders, last = key.split(".")
    node = changed
    for name in folders:
        node = node.setdefault(name, {})
    node[last] = value
    return changed


def run(document: dict[str, Any], root: Path, first: str = "index") -> dict[str, bytes]:
    """Run the stages from one on, as their commands do; return what lies outside the store."""
    project = Project(root / "params.yaml", (), document, Layout(root))
    layout, runtime, chosen = project.layout, Runtime(workers=0, batch=8, device="cpu"), STAGES[STAGES.index(first) :]
    for split in project.name_list("index.splits"):
        source = parse_source(project.get(f"index.{split}"), f"index.{split}")
        if "index" in chosen:
            index(split, source, layout)
        if "pack" in chosen:
            pack(split, source, project.section("pack", PackParams), layout, runtime)
        if "embed" in chosen:
            embed(split, project.section("embed", EmbedParams), layout, runtime)
    if "moments" in chosen:
        moments(project.section("moments", MomentsParams), layout, runtime)
    if "whiten" in chosen:
        whiten("zca", project.section("whiten.zca", TargetParams), layout)
    shutil.rmtree(layout.root / "models", ignore_errors=True)  # as DVC does
    distill(TINY, "zca", read_params(project, TINY), layout, runtime, layout.model(TINY, "zca"))
    return contents(root)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and ".store" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def document(tiny_teacher: str) -> dict[str, Any]:
    return flip(DOCUMENT, "embed.teacher", {"model": tiny_teacher, "allow_half_precision_noise": True})


@pytest.fixture(scope="module")
def finished(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project that was run to the end. Do not change it: copy it."""
    root = tmp_path_factory.mktemp("finished")
    run(document, root)
    return root


@pytest.fixture(scope="module")
def labeled(tiny_teacher: str) -> dict[str, Any]:
    return flip(LABELED, "embed.teacher", {"model": tiny_teacher})


@pytest.fixture(scope="module")
def finished_labeled(labeled: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled project that was run to the end. Do not change it: copy it."""
    root = tmp_path_factory.mktemp("labelled")
    run(labeled, root)
    return root


def check_flip(document: dict[str, Any], finished: Path, folder: Path, key: str, value: Any) -> None:
    changed, first = flip(document, key, value), key.split(".", maxsplit=1)[0]
    before = contents(finished)
    for name in ("incremental", "scratch"):
        shutil.copytree(finished, folder / name)
    scratch = folder / "scratch"
    # What lies before the section that was flipped cannot have read it, and is kept: all else is made anew.
    shutil.rmtree(scratch / "data" / ".store")
    shutil.rmtree(scratch / "models")
    for stage, names in {"pack": ["packed"], "embed": ["embeddings"], "moments": ["moments.h5"]}.items():
        if STAGES.index(first) <= STAGES.index(stage):
            for path in (scratch / "data" / name for name in names):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    after = run(changed, folder / "incremental", first)
    assert after == run(changed, scratch, first)
    # Negative control: the flip decides something, so that what was there before would have been wrong.
    assert key in WITHOUT_EFFECT or after != before


LATE = [key for key in FLIPS if STAGES.index(key.split(".", maxsplit=1)[0]) >= STAGES.index("moments")]


@pytest.mark.parametrize("key", [key for key in LATE if key.split(".")[0] != "distill"])
def test_after_the_teacher_incremental_is_from_scratch(
    document: dict[str, Any], finished: Path, tmp_path: Path, key: str
) -> None:
    check_flip(document, finished, tmp_path, key, FLIPS[key])


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in FLIPS if key not in LATE or key.startswith("distill.")])
def test_every_parameter_flipped_gives_what_a_run_from_scratch_gives(
    document: dict[str, Any], finished: Path, tmp_path: Path, key: str
) -> None:
    check_flip(document, finished, tmp_path, key, FLIPS[key])


@pytest.mark.parametrize("key", ["index.train.sources.painting.templates", "distill.loss.rise_relative.anchors"])
def test_words_and_losses_of_labeled_splits_flipped_are_from_scratch(
    labeled: dict[str, Any], finished_labeled: Path, tmp_path: Path, key: str
) -> None:
    check_flip(labeled, finished_labeled, tmp_path, key, LABELED_FLIPS[key])


@pytest.mark.slow
@pytest.mark.parametrize("key", LABELED_FLIPS)
def test_every_parameter_of_labeled_splits_flipped_gives_what_a_run_from_scratch_gives(
    labeled: dict[str, Any], finished_labeled: Path, tmp_path: Path, key: str
) -> None:
    check_flip(labeled, finished_labeled, tmp_path, key, LABELED_FLIPS[key])
