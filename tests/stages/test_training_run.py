"""One builder of a training run: every key of the training parameters reaches it, in `distill` and in `compare`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.comparison.params import SET_BY_COMPARE, CompareParams, ComparisonSetup
from pipeline.comparison.runner import Trial, TrialRunner
from pipeline.distill import DistillParams, distill
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from pipeline.students.run import TrainingRun
from pipeline.students.training.params import TrainingParams
from tests.factories.project import RUNTIME, project
from tests.factories.students import TINY

BASE: dict[str, Any] = {"batch": 16, "image_size": 16}
LOSS = {"fd": 1.0, "icl": 0.1}
CHANGES: dict[str, dict[str, Any]] = {
    "epochs": {"epochs": 2},
    "steps": {"steps": 3},
    "batch": {"batch": 20},
    "image_size": {"image_size": 24},
    "seed": {"seed": 1},
    "zero_shot_set": {"zero_shot_set": "badges"},
    "num_validations": {"num_validations": 2},
    "patience": {"patience": 1},
    "optimizer": {"optimizer": "adam"},
    "head_steps": {"head_steps": "relative"},
    "weight_decay": {"weight_decay": 0.5},
    "schedule": {"schedule": "constant"},
    "warmup": {"warmup": 0.5},
    "gradient_clip": {"gradient_clip": 0.01},
    "accumulation_steps": {"accumulation_steps": 2},
    "ema_decay": {"ema_decay": 0.5},
    "precision": {"precision": "bf16"},
    "compile": {"compile": True},
    "max_views": {"max_views": 1},
    "max_captions": {"max_captions": 1},
    "caption_mix": {"caption_mix": {"seen": 0.5}},
    "augmentation": {"augmentation": "free"},
    "pixels": {"pixels": "streamed"},
    "shuffle_buffer": {"pixels": "streamed", "shuffle_buffer": 30},
    "shard_groups": {"pixels": "streamed", "shard_groups": 2},
    "flip": {"augmentation": "free", "flip": 0.5},
}
BESIDE: dict[str, dict[str, Any]] = {
    "patience": {"epochs": 4, "num_validations": 4, "optimizer": "sgd", "gradient_clip": 1e-9},
    "precision": {"image_size": 32},
}
"""What a key needs beside it to show: with steps this small val_nmse does not fall, and the run ends early; bf16 on a
CPU is refused for images below the student's stride."""
BESIDE_IN_COMPARE = {"precision": BESIDE["precision"]}
ON_THE_CARD_ONLY = {"augmentation"}
"""It decides what `flip` may be, and is written down for who uses the student."""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return project(tmp_path_factory.mktemp("run"), students=(), targets=("raw",), views=2, further=True)


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Compile nothing, which would take a minute, but write down that it was asked for."""
    asked: list[object] = []

    def compile_nothing(module: object) -> object:
        asked.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return asked


def distilled(layout: Layout, out: Path, changes: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """Return what `distill` gives: weights and history."""
    training = {**BASE, "epochs": 1, "num_validations": 1, **changes}
    params = DistillParams.model_validate({"training": training, "loss": LOSS, "student": {}})
    distill(TINY, "raw", params, layout, RUNTIME, out)
    return load_file(out / "student.safetensors"), (out / "history.csv").read_text(encoding="utf-8")


def compared(layout: Layout, folder: Path, changes: dict[str, Any]) -> TrialRunner:
    document = {
        "runtime": {"workers": 0, "batch": 64, "device": "cpu"},
        "index": {"splits": ["train", "val", "badges"]},
        "whiten": {"targets": ["raw"], "raw": {"method": "raw"}},
        "compare": {
            "student": TINY,
            "targets": ["raw"],
            "epochs": [1],
            "subset": 20,
            "loss": LOSS,
            "training": {**BASE, **changes},
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    found = Project.open(folder / "params.yaml", [], layout.root)
    runner = ComparisonSetup(found.section("compare", CompareParams), found).open()
    assert isinstance(runner, TrialRunner)
    return runner


@pytest.fixture(scope="module")
def plainly_distilled(
    layout: Layout, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, torch.Tensor], str]]:
    """Return what `distill` gives with only what a key needs beside it: trained once for all keys that need nothing."""

    @functools.cache
    def train(key: str) -> tuple[dict[str, torch.Tensor], str]:
        return distilled(layout, tmp_path_factory.mktemp("plain"), BESIDE.get(key, {}))

    return lambda key: train(key if key in BESIDE else "")


@pytest.fixture(scope="module")
def plainly_compared(
    layout: Layout, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[TrialRunner, dict[str, Any]]]:
    """Return the runner and the scores of a comparison, likewise."""

    @functools.cache
    def train(key: str) -> tuple[TrialRunner, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("plain")
        runner = compared(layout, folder, BESIDE_IN_COMPARE.get(key, {}))
        return runner, scores(runner, folder)

    return lambda key: train(key if key in BESIDE_IN_COMPARE else "")


def scores(bench: TrialRunner, folder: Path) -> dict[str, Any]:
    run = bench.run(Trial("raw", 1, 1e-2, 1), folder / "state")
    return {"final": run.final, "curves": run.curves, "start": run.start}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_walk_leaves_no_key_out() -> None:
    assert CHANGES.keys() == TrainingParams.model_fields.keys()
    default = TrainingParams()
    for key, changes in CHANGES.items():
        assert getattr(TrainingParams(**changes), key) != getattr(default, key), key


@pytest.mark.parametrize("key", CHANGES)
def test_each_key_reaches_the_student_that_distill_trains(
    layout: Layout, tmp_path: Path, key: str, compiled: list[object], plainly_distilled: Callable[[str], Any]
) -> None:
    before = plainly_distilled(key)
    after = distilled(layout, tmp_path, {**BESIDE.get(key, {}), **CHANGES[key]})
    if key == "compile":
        assert len(compiled) == 1
    elif key == "zero_shot_set":
        assert "zero_shot" in after[1]
        assert "zero_shot" not in before[1]
        assert same(before[0], after[0])  # it is looked at, and decides nothing
    elif key in {"num_validations", "patience"}:
        assert len(after[1].splitlines()) != len(before[1].splitlines())
    else:
        assert same(before[0], after[0]) == (key in ON_THE_CARD_ONLY)


@pytest.mark.parametrize("key", [key for key in CHANGES if key not in SET_BY_COMPARE])
def test_each_key_reaches_the_students_that_compare_trains(
    layout: Layout, tmp_path: Path, key: str, compiled: list[object], plainly_compared: Callable[[str], Any]
) -> None:
    before, plain_scores = plainly_compared(key)
    after = compared(layout, tmp_path, {**BESIDE_IN_COMPARE.get(key, {}), **CHANGES[key]})
    assert before.facts() != after.facts()
    after_scores = scores(after, tmp_path)
    if key == "compile":
        assert len(compiled) == 1
    else:
        assert (plain_scores == after_scores) == (key in ON_THE_CARD_ONLY)


@pytest.mark.parametrize("key", SET_BY_COMPARE)
def test_a_key_that_compare_decides_itself_is_refused_there(layout: Layout, tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match=rf"compare\.training.*leave out '{key}'"):
        compared(layout, tmp_path, CHANGES[key])


def test_distill_and_compare_build_the_same_run(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same parameters and seed: the same weights before the first step, and the same batches."""
    runs: list[TrainingRun] = []

    class BuiltError(Exception):
        """Stops a run that is built, before it is trained."""

    def stop(run: TrainingRun, *_: Any, **__: Any) -> Any:
        runs.append(run)
        raise BuiltError

    shared = {"max_captions": 1, "caption_mix": {"seen": 0.5}, "augmentation": "free", "flip": 0.5, "max_views": 2}
    bench = compared(layout, tmp_path, shared)
    monkeypatch.setattr(TrainingRun, "train", stop)
    with pytest.raises(BuiltError):
        distilled(layout, tmp_path / "arm", {**shared, "seed": 1})
    with pytest.raises(BuiltError):
        bench.run(Trial("raw", 1, 2e-3, 1), tmp_path / "state")
    one, two = runs
    assert same(one.student.state_dict(), two.student.state_dict())
    assert one.student.params == two.student.params
    for step in itertools.islice(itertools.count(), 8):
        left, right = one.feed.batch_at(step), two.feed.batch_at(step)
        assert torch.equal(left.pixels, right.pixels)
        assert left.targets.text is not None
        assert right.targets.text is not None
        assert torch.equal(left.targets.text, right.targets.text)
    # Negative control: without `captions`, other texts are drawn.
    other = (
        compared(layout, tmp_path, {**shared, "max_captions": None})
        .build(Trial("raw", 1, 2e-3, 1))
        .feed.batch_at(0)
        .targets
    )
    assert other.text is not None
    first = two.feed.batch_at(0).targets.text
    assert first is not None
    assert not torch.equal(other.text, first)
