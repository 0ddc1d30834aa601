"""Further captions from stage to stage: students that learn from them, what is recorded of it, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cache.atomic import write_text
from cache.errors import StaleError
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.deployment.model_card import write_card
from pipeline.distill import DistillParams, distill
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.report import ReportParams, report
from pipeline.students.checkpoint import read_card
from pipeline.students.inputs.splits import open_split
from pipeline.students.inputs.targets import load_targets
from pipeline.whitening.spaces import load_space
from tests.factories.project import PARTS, RUNTIME, embed_by_arithmetic, write_further_captions
from tests.factories.students import TEXT, TINY
from tests.stages.test_embed import files

OPTIONS: dict[str, Any] = {"students": (), "targets": ("raw",), "tokens": 16, "further": True}


@pytest.fixture
def layout(projects: Callable[..., Layout], tmp_path: Path) -> Layout:
    shutil.copytree(projects(**OPTIONS).root, tmp_path / "project")
    return Layout(tmp_path / "project")


def student(layout: Layout, mix: dict[str, float] | None, name: str = "run", **more: Any) -> Path:
    training = {"epochs": 1, "batch": 16, "image_size": 16, "num_validations": 1, **more.pop("training", {})}
    training |= {} if mix is None else {"caption_mix": mix}
    loss = more.pop("loss", {"fd": 1.0, "icl": 0.1, "infonce": 0.1, "bank_size": 8})
    params = DistillParams.model_validate({"training": training, "loss": loss, "student": {"text": TEXT, **more}})
    return distill(TINY, "raw", params, layout, RUNTIME, layout.run(name))


def pack_further(layout: Layout, path: Path) -> None:
    named = {"caption_files": {"seen": {"file": str(path)}}}
    source = parse_source({"source": "sample", "part": "train", "images": PARTS["train"], **named}, "index.train")
    index("train", source, layout)
    pack("train", source, PackParams(shard_rows=30), layout, RUNTIME)


def weights(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(folder / "student.safetensors")
    return found


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_a_share_of_nothing_is_the_same_student_and_adding_a_file_trains_none_again(
    projects: Callable[..., Layout], layout: Layout, tmp_path: Path
) -> None:
    shutil.copytree(projects(**{**OPTIONS, "further": False}).root, tmp_path / "without")
    before = student(Layout(tmp_path / "without"), None)
    here, none = student(layout, None, "a"), student(layout, {"seen": 0.0}, "b")
    assert files(before) == files(here) == files(none)
    assert "caption_files" not in read_card(here)


def test_a_mix_is_another_student_that_says_what_it_saw(layout: Layout) -> None:
    plain, half = student(layout, None, "plain"), student(layout, {"seen": 0.5}, "half")
    assert not equal(plain, half)
    assert not equal(half, student(layout, {"seen": 1.0}, "whole"))
    card, counts = read_card(half), open_packed(layout.packed("train")).caption_files["seen"].counts
    assert (counts["images"], counts["missing"], counts["captions"]) == (60, 20, 120)
    assert card["training"]["caption_mix"] == {"seen": 0.5}
    found = card["caption_files"]["seen"]
    assert (found["share"], found["images"], found["missing"]) == (0.5, 60, 20)
    text = write_card(card, None, None, [], {"student.safetensors": 5})
    assert "in 50 % of the steps those of `seen`, which has 60 of 80 training images" in text
    assert "Captions: in" not in write_card(read_card(plain), None, None, [], {"student.safetensors": 5})
    metrics = json.loads(evaluate(half, ["badges"], EvaluateParams(map_pairs=0), layout, RUNTIME).read_text())
    assert metrics["leakage"]["val"]["same_captions"]["files"] == {"seen": 0}
    # What it would be without the tower and without a loss over captions: nothing that it could see of them.
    images = {"loss": {"fd": 1.0}, "text": None}
    assert equal(student(layout, None, "c", **images), student(layout, {"seen": 0.5}, "d", **images))


def test_the_report_says_which_further_captions_there_are_and_who_learns_from_them(layout: Layout) -> None:
    half = student(layout, {"seen": 0.5}, "half")
    shutil.copytree(half, layout.model(TINY, "raw"))
    evaluate(layout.model(TINY, "raw"), ["badges"], EvaluateParams(map_pairs=0), layout, RUNTIME)
    arms, splits = ((TINY, "raw"),), ("train", "val", "badges")
    page = report(arms, splits, ("raw",), ReportParams(samples=1), layout).read_text(encoding="utf-8")
    text = " ".join(re.sub("<[^>]*>", " ", page).split())
    assert "seen 60 20 120 0 / 0 / 0 test_resnet-raw 50 %" in text
    captions = len(EmbeddingStore.open(layout.embeddings("val")).caption_hashes())
    assert f"Of {captions} captions of val, train has word for word" in text
    assert "0 among" in text


def test_a_mix_that_decides_nothing_is_said(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    out = student(layout, {"seen": 0.5}, loss={"fd": 1.0}, text=None)
    assert "caption_mix: seen decides nothing here: no loss looks at captions" in capsys.readouterr().err
    assert "caption_files" not in read_card(out)


def test_streamed_rows_are_mixed_as_resident_ones(layout: Layout) -> None:
    store, space = open_split("train", layout, RUNTIME).store, load_space(layout.target("raw"))
    kept, lazy = (
        load_targets(store, space, texts=True, context=8, resident=resident, mix={"seen": 0.5})
        for resident in (True, False)
    )
    assert kept.caption_files[0].share == lazy.caption_files[0].share == 0.5
    rows = np.array([100, 3, 3, 41])
    np.testing.assert_allclose(lazy.caption_files[0].text[rows], kept.caption_files[0].text[rows], atol=1e-5)
    assert np.array_equal(lazy.caption_files[0].tokens[rows], kept.caption_files[0].tokens[rows])
    np.testing.assert_allclose(lazy.text_sample, kept.text_sample, atol=1e-5)
    streamed = student(layout, {"seen": 0.5}, "streamed", training={"pixels": "streamed"})
    assert read_card(streamed)["caption_files"]["seen"]["share"] == 0.5


def test_files_that_are_not_there_or_not_as_they_were_embedded_are_one_line(layout: Layout) -> None:
    with pytest.raises(UsageError, match=r"no captions 'sean'; did you mean 'seen'.*caption_files has seen"):
        student(layout, {"sean": 0.5})
    pack_further(layout, write_further_captions(layout.root / "seen.jsonl", gap=2))
    with pytest.raises(StaleError, match=r"captions 'seen' are \w+ there and \w+ among the embeddings"):
        student(layout, {"seen": 0.5})
    student(layout, None)  # who does not learn from them does not care
    embed_by_arithmetic(layout, "train", 16)
    first = student(layout, {"seen": 0.5}, "first")
    assert read_card(first)["caption_files"]["seen"]["missing"] == 40


def test_another_files_captions_train_another_student_and_the_same_ones_are_found(layout: Layout) -> None:
    one = student(layout, {"seen": 0.5}, "one")
    marks = EmbeddingStore.open(layout.embeddings("train")).manifest.parts["captions/seen"].fingerprint
    text = (layout.root / "seen.jsonl").read_text(encoding="utf-8")
    write_text(layout.root / "other.jsonl", text.replace("once", "and"))
    for file, same in (("other.jsonl", False), ("seen.jsonl", True)):
        pack_further(layout, layout.root / file)
        embed_by_arithmetic(layout, "train", 16)
        part = EmbeddingStore.open(layout.embeddings("train")).manifest.parts["captions/seen"]
        assert (part.fingerprint == marks) == same
        again = student(layout, {"seen": 0.5}, f"again-{same}")
        assert (read_card(again)["fingerprint"] == read_card(one)["fingerprint"]) == same
