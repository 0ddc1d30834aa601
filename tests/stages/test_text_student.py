"""A student that reads, from stage to stage: trained, looked at, saved, evaluated, and begun with a teacher's slice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load

from cache.errors import DamagedError, MissingError, StaleError
from cache.reader import EmbeddingStore
from pipeline.data.text_slice import WEIGHTS, TextSlice, read_slice, write_slice
from pipeline.deployment.model_card import write_card
from pipeline.distill import BOARD, DistillParams, distill
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.students.checkpoint import load_student, read_card
from pipeline.students.text_tower import TextParams, TextTower, init_from_slice
from pipeline.students.towers import last_layer
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.text_slice import TextSliceParams, slice_text_tower
from tests.factories.project import RUNTIME
from tests.factories.students import TEXT, TINY

pytestmark = pytest.mark.project(students=(), tokens=16)


def arm(layout: Layout, loss: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any) -> Path:
    training = {"epochs": 2, "batch": 16, "image_size": 16, "zero_shot_set": "badges", "num_validations": 2}
    sections = {
        "training": training,
        "loss": loss or {"fd": 1.0, "icl": 0.1, "infonce": 0.1},
        "student": {"text": text or TEXT},
        **more,
    }
    return distill(TINY, "zca", DistillParams.model_validate(sections), layout, RUNTIME, layout.model(TINY, "zca"))


@pytest.mark.parametrize("loss", [None, {"cosine": 1.0}])
def test_a_student_that_reads_is_trained_looked_at_saved_and_scored_by_itself(
    project_copy: Layout, loss: dict[str, Any] | None
) -> None:
    out = arm(project_copy, loss, tensorboard=loss is None)
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert {
        "val_text_nmse",
        "zero_shot_own",
        "zero_shot",
        "gradient_text_infonce" if loss is None else "cosine",
    } <= rows[0].keys()
    student = load_student(out)
    assert student.text is not None
    assert student.text.dim == student.dim
    assert (student.card["text_radius"] is None) == (loss is None)
    metrics = json.loads(evaluate(out, ["badges"], EvaluateParams(map_pairs=0), project_copy, RUNTIME).read_text())
    found = metrics["zero_shot"]["badges"]["clip"]
    # The look during training and the evaluation after it score the same student by the same words.
    assert found["own_text"] == pytest.approx(float(rows[-1]["zero_shot_own"]), abs=1e-5)
    assert found["student"] == pytest.approx(float(rows[-1]["zero_shot"]), abs=1e-5)
    own = metrics["retrieval"]["val"]["clip"]["own_text"]
    assert own.keys() == metrics["retrieval"]["val"]["clip"]["student"].keys()
    assert own != metrics["retrieval"]["val"]["clip"]["student"]
    card = write_card(read_card(out), metrics, None, [], {"student.safetensors": 5})
    assert "a text tower of its own (1 layers, width 16" in card
    assert f"| badges | clip | {100 * found['student']:.1f} | {100 * found['own_text']:.1f} |" in card


def test_tensorboard_shows_the_rows_of_the_history(project_copy: Layout) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = arm(project_copy, tensorboard=True)
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    events = EventAccumulator(str(out / BOARD)).Reload()
    assert set(events.Tags()["scalars"]) == rows[0].keys() - {"step"}
    shown = events.Scalars("val_nmse")
    assert [event.step for event in shown] == [int(row["step"]) for row in rows]
    np.testing.assert_allclose([event.value for event in shown], [float(row["val_nmse"]) for row in rows], rtol=1e-5)
    # It decides nothing: without it, the student is the same and is not trained again.
    card = read_card(out)["fingerprint"]
    assert read_card(arm(project_copy))["fingerprint"] == card


@pytest.mark.parametrize(("loss", "words"), [({"mfd": 1}, "no loss teaches it: mfd"), ({"mfd": 1, "fd": 1}, None)])
def test_a_text_tower_that_would_learn_nothing_is_refused(
    project_copy: Layout, loss: dict[str, Any], words: str | None
) -> None:
    if words is None:
        arm(project_copy, loss)
        return
    with pytest.raises(UsageError, match=words):
        arm(project_copy, loss)


@pytest.mark.project(students=())
def test_a_cache_whose_tokens_are_not_the_tokenizers_is_refused(project_copy: Layout) -> None:
    with pytest.raises(UsageError, match="needs a teacher with CLIP's tokenizer"):
        arm(project_copy)


def test_a_slice_of_the_teacher_is_its_first_channels_and_a_whole_one_is_the_teacher(tiny_teacher: str) -> None:
    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    published = load(slice_text_tower(teacher, TextSliceParams(width=16)).weights)
    assert {name: tuple(w.shape) for name, w in published.items()} == {
        "token_embedding.weight": (49408, 16),
        "positional_embedding": (16, 16),
        "text_projection": (16, 16),
    }
    assert torch.equal(published["token_embedding.weight"], cast(Any, teacher.model).token_embedding.weight[:, :16])
    tower = TextTower(TextParams(layers=2, width=32, heads=2, context=16), 16)
    init_from_slice(tower, slice_text_tower(teacher, TextSliceParams(width=32, layers=2)), np.eye(16), "text")
    last_layer(tower.head).bias.data.zero_()
    tokens = teacher.tokenize(["a dog", "two small cats"])
    with torch.no_grad():
        said = tower.eval()(torch.from_numpy(tokens).long()).numpy()
    np.testing.assert_allclose(said, teacher.embed_tokens(tokens), atol=1e-5)
    # Half of it keeps one of two heads: another function, of the same shapes as a tower of that size.
    half = TextTower(TextParams(layers=2, width=16, heads=1, context=12), 16)
    init_from_slice(half, slice_text_tower(teacher, TextSliceParams(width=16, layers=1)), np.eye(16), "text")
    first, theirs = (cast(Any, model).transformer.resblocks[0].attn for model in (half.trunk, teacher.model))
    assert torch.equal(first.in_proj_weight[16:32], theirs.in_proj_weight[32:48, :16])


def test_what_does_not_fit_a_slice_is_refused(tiny_teacher: str, tmp_path: Path) -> None:
    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    for params, words in (
        ({"width": 64}, "64, but the teacher has 32"),
        ({"width": 8, "layers": 1}, "a multiple of 16"),
    ):
        with pytest.raises(UsageError, match=words):
            slice_text_tower(teacher, TextSliceParams(**params))
    found = slice_text_tower(teacher, TextSliceParams(width=16, layers=1))
    for text, words in (
        ({"width": 32, "heads": 2, "context": 16}, "text.width: 32, but embed.text_slice.width was 16"),
        ({"width": 16, "heads": 2, "context": 16}, "set text.heads to 1"),
        ({"width": 16, "heads": 1, "context": 20}, "its context is shorter"),
    ):
        with pytest.raises(UsageError, match=words):
            init_from_slice(TextTower(TextParams.model_validate({"layers": 1, **text}), 16), found, np.eye(16), "text")
    write_slice(tmp_path, found, {"model": "a"})
    assert read_slice(tmp_path, {"model": "a"}) == found
    with pytest.raises(StaleError, match="another teacher"):
        read_slice(tmp_path, {"model": "b"})
    (tmp_path / WEIGHTS).write_bytes(found.weights[:-1] + b"x")
    with pytest.raises(DamagedError, match="its card says"):
        read_slice(tmp_path, {"model": "a"})


def test_an_arm_begins_with_the_slice_in_the_cache_and_another_slice_is_another_arm(
    project_copy: Layout, tiny_teacher: str
) -> None:
    text = {**TEXT, "weights": "slice"}
    with pytest.raises(MissingError, match=r"Set embed\.text_slice"):
        arm(project_copy, text=text)
    folder = project_copy.embeddings("train")
    facts = EmbeddingStore.open(folder).manifest.teacher
    found = slice_text_tower(load_teacher(TeacherParams(model=tiny_teacher), "cpu"), TextSliceParams(width=16))
    weights = load(found.weights)
    weights["text_projection"] = torch.randn(16, 24)
    from safetensors.torch import save

    for name, factor in (("one", 1.0), ("two", 2.0)):
        weights["token_embedding.weight"] = factor * weights["token_embedding.weight"]
        write_slice(folder, TextSlice(save(weights), 16, 0, 16), facts)
        out = arm(project_copy, text=text)
        shutil.move(out, out.with_name(name))
    one, two = (read_card(out.with_name(name)) for name in ("one", "two"))
    assert one["fingerprint"] != two["fingerprint"]
    assert one["params"]["text"]["weights"] == "slice"
    assert load_student(out.with_name("one")).card["params"] == one["params"]
