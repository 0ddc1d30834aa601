"""Students that learn the teacher's tokens of places: what it is worth, what it leaves alone, what is refused."""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cache.errors import DamagedError, MissingError
from cache.reader import EmbeddingStore
from pipeline.commands.choose import choose_exported
from pipeline.commands.export import ExportOptions, export, parse_export_options
from pipeline.data.packing.packed import open_packed
from pipeline.data.synthetic.relations import draw_relation
from pipeline.distill import DistillParams, distill
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.evaluation.csv_tables import parse_table
from pipeline.moments import MomentsParams, moments
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.relate import relate, relate_student
from pipeline.relations.cached_tokens import CachedTokens, CaptionList
from pipeline.relations.choice_sets import ChoiceSet, Question
from pipeline.relations.fitting import score_captions
from pipeline.relations.params import ScorerParams
from pipeline.relations.score_files import read_scores, student_score_faults
from pipeline.relations.scorer_files import load_scorer, load_students_scorer
from pipeline.relations.scoring import open_tokens
from pipeline.students.checkpoint import load_student, read_card
from pipeline.students.dense_tokens import PlaceFeatures, embed_places
from pipeline.students.inference import center_views, embed_pixels
from pipeline.students.inputs.splits import open_split
from pipeline.students.model import Student, StudentParams, normalize_pixels
from pipeline.whiten import TargetParams, whiten
from tests import ROOT
from tests.factories.fork_server import programs
from tests.stages.test_relate import DCSM, RELATE, RUNTIME, SPLITS, embedded, packed

STUDENT, TARGET = "resnet-tiny", "scale"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Train with tokens, val, and two choice sets with tokens. Students are added; change nothing else."""
    layout = Layout(tmp_path_factory.mktemp("dense"))
    for split, images in {"train": 96, "val": 16}.items():
        packed(layout, split, {"source": "sample", "part": split, "images": images})
        embedded(layout, split, format="int8")
    for split, part in SPLITS.items():
        packed(layout, split, {"source": "sample", "part": part, "images": 16})
        embedded(layout, split, format="int8")
    moments(MomentsParams(), layout, RUNTIME)
    whiten(TARGET, TargetParams(method="scale"), layout)
    return layout


def params(loss: dict[str, Any], student: dict[str, Any] | None = None, **training: Any) -> DistillParams:
    settings = {"epochs": 8, "batch": 16, "image_size": 64, "num_validations": 2, **training}
    own = {"learning_rate": 3e-3, **(student or {})}
    return DistillParams.model_validate({"training": settings, "loss": loss, "student": own})


def distilled(layout: Layout, name: str, chosen: DistillParams) -> Path:
    return distill(STUDENT, TARGET, chosen, layout, RUNTIME, layout.run(name))


def seen_pixels(layout: Layout, split: str, count: int) -> np.ndarray:
    """Return the center views of a split's first images, as students see them."""
    opened = open_split(split, layout, RUNTIME)
    views = center_views(opened.store, opened.pixels(64, 1, layout, RUNTIME))
    rows = np.arange(count)
    return views.pixels.batch(rows, views.boxes[rows], views.flips[rows], 64)


def token_error(layout: Layout, folder: Path, side: int) -> float:
    """Return the share of the variance of the teacher's tokens that a student leaves unexplained, in training."""
    tokens = EmbeddingStore.open(layout.embeddings("train")).patches()[np.arange(80)]
    step = 8 // side
    wanted = tokens.reshape(80, 8, 8, -1)[:, ::step, ::step].reshape(80, side * side, -1)
    said = embed_places(load_student(folder), seen_pixels(layout, "train", 80), side)
    flat = wanted.reshape(-1, wanted.shape[-1])
    return float(np.square(said - wanted).sum() / np.square(flat - flat.mean(axis=0)).sum())


def test_a_student_that_learns_tokens_says_them_and_one_that_does_not_does_not(project: Layout) -> None:
    plain = distilled(project, "plain", params({"fd": 1.0}))
    dense = distilled(project, "dense", params({"fd": 1.0, "dense": 1.0}, {"patches": True}))
    fine = distilled(project, "fine", params({"fd": 1.0, "dense": 1.0}, {"patches": True, "grid": 8}))
    assert token_error(project, dense, 2) < 0.9 * token_error(project, plain, 2)
    assert token_error(project, fine, 8) < 0.95 * token_error(project, dense, 8)
    rows = list(csv.DictReader((dense / "history.csv").read_text().splitlines()))
    assert float(rows[-1]["dense"]) < float(rows[0]["dense"])
    assert read_card(dense)["parameters"] == read_card(plain)["parameters"], "no parameter more"


def test_evaluate_scores_choice_sets_by_rules_and_scorers_and_looks_twice_at_retrieval(project: Layout) -> None:
    dense = distilled(project, "dense", params({"fd": 1.0, "dense": 1.0}, {"patches": True}))
    relate("dcsm", DCSM, RELATE, project, RUNTIME)
    chosen = EvaluateParams(rules=("clip",), scorers=("dcsm",), map_pairs=0, rerank=4)
    first = json.loads(evaluate(dense, [], chosen, project, RUNTIME, ["held"]).read_text())
    place = first["choices"]["held"]["place"]
    assert set(place) == {"clip", "dcsm"}
    assert place["clip"]["chance"]["text"] == 0.5
    assert place["dcsm"]["ceiling"].keys() == place["dcsm"]["student"].keys() == {"text", "image", "group"}
    known = (read_scores(project.scorer("dcsm")) or {})["sets"]["held"]["place"]
    assert place["dcsm"]["ceiling"]["text"] == known["scorer"]["text"]
    assert place["clip"]["ceiling"]["text"] == known["cosine"]["text"], "the rule clip is plain cosine"
    assert place["clip"]["blind"] == {"student": 0.5, "ceiling": 0.5}
    second = first["reranking"]["val"]["dcsm"]["ceiling"]["image_to_text"]
    assert second["before"]["R@1"] == first["retrieval"]["val"]["clip"]["ceiling"]["image_to_text"]["R@1"]
    assert 0 <= second["after"]["R@1"] <= 1
    maps = parse_table((dense / "tables" / "held-maps.csv").read_bytes())
    assert {row[maps.columns.index("tokens")] for row in maps.rows} == {"student", "teacher"}
    assert all(len(row[-1].split()) == 64 for row in maps.rows)
    # One of the student's own stands beside them once it is fitted.
    relate_student("dcsm", RELATE, dense, project, RUNTIME)
    again = json.loads(evaluate(dense, [], chosen, project, RUNTIME, ["held"]).read_text())
    assert "own" in again["choices"]["held"]["place"]["dcsm"]
    assert list(student_score_faults(dense, read_card(dense), project.models)) == []
    # Without choice sets there is no trace of them.
    plain = json.loads(evaluate(dense, [], EvaluateParams(rules=("clip",), map_pairs=0), project, RUNTIME).read_text())
    assert {"choices", "reranking"}.isdisjoint(plain)
    assert "scorers" not in EvaluateParams().model_dump(mode="json")


def test_a_caption_longer_than_the_scorers_columns_is_truncated_where_retrieval_is_reranked(project: Layout) -> None:
    """Val's longest caption has 14 tokens, and no caption of the choice sets more than 13."""
    narrow = ScorerParams(kind="late", columns=13)
    relate("late", narrow, RELATE, project, RUNTIME)
    store = EmbeddingStore.open(project.embeddings("val"))
    captions = [caption for sample in open_packed(project.packed("val")).read(0) for caption in sample.captions]
    listed = CachedTokens(store, CaptionList((), tuple(captions)), narrow)
    longest = int(np.argmax([len(store.words()[row][0]) for row in range(len(captions))]))
    with pytest.raises(UsageError, match="has 14 tokens, and the scorer 13 columns"):
        listed.texts(np.array([longest]))
    tokens = store.words()[longest][0]
    texts = replace(listed, truncated=True).texts(np.array([longest]))
    np.testing.assert_array_equal(texts.words[0, :12], tokens[:12])
    np.testing.assert_array_equal(texts.words[0, 12], tokens[13])
    assert texts.valid.all()
    dense = distilled(project, "dense", params({"fd": 1.0, "dense": 1.0}, {"patches": True}))
    chosen = EvaluateParams(rules=("clip",), scorers=("late",), map_pairs=0, rerank=4)
    metrics = json.loads(evaluate(dense, [], chosen, project, RUNTIME).read_text())
    assert 0 < metrics["reranking"]["val"]["late"]["ceiling"]["image_to_text"]["after"]["R@5"] <= 1


@pytest.mark.parametrize("training", [True, False])
def test_the_pooled_features_are_to_the_bit_those_of_the_backbone(training: bool) -> None:
    torch.manual_seed(0)
    for grid in (None, 8):
        student = Student(STUDENT, StudentParams(patches=True, grid=grid), 24)
        pixels = torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        places = PlaceFeatures.build(student, pixels)
        images = normalize_pixels(pixels, *student.mean_std)
        student.train(training)
        pooled, maps = places(images, training=training)
        assert torch.equal(pooled, student.backbone(images))
        assert maps.shape == (4, (grid or 2) ** 2, pooled.shape[1])
        if grid is None:
            torch.testing.assert_close(maps.mean(dim=1), pooled)


def test_the_finer_grid_has_the_backbones_own_weights_and_statistics() -> None:
    torch.manual_seed(0)
    student = Student(STUDENT, StudentParams(patches=True, grid=8), 24).train()
    pixels = torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8)
    places = PlaceFeatures.build(student, pixels)
    assert student.backbone.training
    own = dict(student.backbone.named_parameters())
    assert all(own[name] is weight for name, weight in places.dilated.named_parameters())
    places(normalize_pixels(pixels, *student.mean_std), training=True)[1].square().mean().backward()  # type: ignore[no-untyped-call]  # torch does not say its type
    assert all(weight.grad is not None for weight in own.values())
    for name, statistic in places.dilated.named_buffers():
        assert statistic is student.backbone.get_buffer(name)
    assert not any("dilated" in name for name in student.state_dict())


def test_patches_without_the_loss_change_no_bit_of_the_embedding(project: Layout) -> None:
    """The head before the pooling is the same head: a student only says more."""
    plain = distilled(project, "plain", params({"fd": 1.0}))
    said = distilled(project, "said", params({"fd": 1.0}, {"patches": True}))
    pixels = seen_pixels(project, "val", 8)
    np.testing.assert_array_equal(embed_pixels(load_student(plain), pixels), embed_pixels(load_student(said), pixels))
    student = load_student(plain)
    tokens = embed_places(student, pixels, 2)
    with torch.inference_mode():
        features = cast(Any, student.backbone).forward_features(
            normalize_pixels(torch.from_numpy(pixels), *student.mean_std)
        )
        exact = student.project(features.flatten(2).transpose(1, 2).flatten(0, 1)).view(8, 4, -1)
    np.testing.assert_allclose(exact.mean(dim=1).numpy(), embed_pixels(student, pixels), atol=1e-5)
    np.testing.assert_allclose(tokens, (exact / exact.norm(dim=-1, keepdim=True)).numpy(), atol=1e-5)


def test_tokens_beside_the_embeddings_are_no_reason_to_learn_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    packed(layout, "train", {"source": "sample", "part": "train", "images": 12})
    embedded(layout, "train")
    before = open_split("train", layout, RUNTIME)
    facts = before.facts()
    embedded(layout, "train", format="float16")
    after = open_split("train", layout, RUNTIME)
    assert after.facts() == facts
    assert after.facts(patches=True) != facts, "the control: one that learns them is another student"
    assert "patches" not in StudentParams().model_dump(mode="json")


def test_wrong_uses_of_dense_are_one_line_each(project: Layout, tmp_path: Path) -> None:
    loss = {"fd": 1.0, "dense": 1.0}
    for chosen, words in (
        (params(loss), "'resnet-tiny' gives no tokens: set distill.resnet-tiny.patches: true"),
        (params(loss, {"patches": True, "grid": 16}), r"16 places a side, and the teacher's tokens have 8"),
        (params(loss, {"patches": True}, compile=True), "not together with the loss dense"),
        (params(loss, {"patches": True, "head": {"kind": "mlp"}}), "needs a convolutional backbone and a linear head"),
    ):
        with pytest.raises(UsageError, match=words) as raised:
            distilled(project, "wrong", chosen)
        assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="no tokens: its features are not the mean over places"):
        distill("mobilenetv3", TARGET, params(loss, {"patches": True}), project, RUNTIME, project.run("wrong"))
    with pytest.raises(ValueError, match="a grid is of patches"):
        StudentParams(grid=8)


def test_tokens_that_train_lacks_are_asked_for(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for split, images in {"train": 40, "val": 12}.items():
        packed(layout, split, {"source": "sample", "part": split, "images": images})
        embedded(layout, split)
    moments(MomentsParams(), layout, RUNTIME)
    whiten(TARGET, TargetParams(method="scale"), layout)
    with pytest.raises(UsageError, match=r"has no tokens: add 'train' to embed.tokens.splits"):
        distilled(layout, "none", params({"dense": 1.0}, {"patches": True}))


def predict_by_hand(layout: Layout, folder: Path, caption: str, foil: str, *options: str) -> str:
    """Return what `predict --choose` prints for mine.png in a folder, by the export beside it."""
    document = yaml.safe_load((ROOT / "presets" / "relations.yaml").read_text(encoding="utf-8"))
    document["index"] = {"splits": ["train", "val", *SPLITS], **{split: {} for split in SPLITS}}
    document["relate"] |= RELATE.model_dump(mode="json")
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    asked = ["predict", folder / "mine.png", "--choose", f"{caption} | {foil}", "--model", folder / "export", *options]
    where = ["--params", folder / "params.yaml", "--root", layout.root]
    command = [programs() / "python", ROOT / "cli.py", *asked, *where]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=300)
    return made.stdout.strip()


@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_an_exported_student_chooses_captions_by_its_scorer_as_torch_does(project: Layout, tmp_path: Path) -> None:
    dense = distilled(project, "dense", params({"fd": 1.0, "dense": 1.0}, {"patches": True}))
    relate("dcsm", DCSM, RELATE, project, RUNTIME)
    form = parse_export_options(dense, "onnx", False, "clip", None, [], project, "dcsm")
    plain = export(dense, tmp_path / "plain", ExportOptions("safetensors"), project, RUNTIME).folder
    folder = export(dense, tmp_path / "export", form, project, RUNTIME).folder
    assert {"model.onnx", "scorer.onnx", "scorer.json"} <= {path.name for path in folder.iterdir()}
    sizes = [path.stat().st_size for path in (dense / "student.safetensors", folder / "model.onnx")]
    assert sizes[1] < 1.1 * sizes[0], "weights are there once, dilated or not"
    image, scene = draw_relation("relations-val", 0)
    Image.fromarray(image).save(tmp_path / "mine.png")
    asked = [tmp_path / "mine.png"], [scene.caption, scene.foil]
    (exported,) = choose_exported(*asked, folder, splits=["held"], layout=project)
    fitted, student = load_students_scorer(dense, "dcsm", read_card(dense)["weights_sha256"]), load_student(dense)
    scorer = fitted[0] if fitted else load_scorer(project.scorer("dcsm"))[0]
    held = open_tokens("held", DCSM, project, RUNTIME)
    texts = replace(held, choices=ChoiceSet((Question(0, scene.caption, (scene.foil,), ""),))).texts(np.arange(2))
    seen = embed_pixels(student, image[None]), embed_places(student, image[None], 8)
    expected = dict(zip((scene.caption, scene.foil), score_captions(scorer, *seen, texts), strict=True))
    assert dict(exported.scores) == pytest.approx(expected, abs=1e-3)
    assert predict_by_hand(project, tmp_path, scene.caption, scene.foil) == exported.line
    (said,) = json.loads(predict_by_hand(project, tmp_path, scene.caption, scene.foil, "--json"))
    assert [entry["caption"] for entry in said["captions"]] == [caption for caption, _ in exported.scores]
    assert said["cosine"] == exported.cosine
    with pytest.raises(MissingError, match=r"no scorer. Export the student with --scorer"):
        choose_exported(*asked, plain, splits=["held"], layout=project)
    with pytest.raises(UsageError, match="leave out --int8"):
        parse_export_options(dense, "onnx", True, "clip", None, [], project, "dcsm")
    (folder / "scorer.onnx").write_bytes((folder / "scorer.onnx").read_bytes() + b" ")
    with pytest.raises(DamagedError, match=r"scorer.onnx"):
        choose_exported(*asked, folder, splits=["held"], layout=project)
