"""Students with and without tokens under scorers of the dense map: what a student replaces, and what is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.dense_cost import bytes_per_image
from benchmarks.dense_students import accuracies, fit_each, with_tokens_of
from benchmarks.relation_sets import RelationSet
from cache.reader import EmbeddingStore
from pipeline.data.synthetic.relations import TASKS, draw_relation
from pipeline.project.layout import Layout
from pipeline.relations.choice_sets import ChoiceSet, Question
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import CosineScorer, Scorer
from pipeline.relations.token_arrays import TokenArrays
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import embed_pixels
from pipeline.students.model import Student, StudentParams
from tests.stages.test_relate import embedded, packed

DIM, GRID, COLUMNS = 12, 4, 6
PARAMS = ScorerParams(kind="dcsm", epochs=1, groups=2, negatives="group", columns=COLUMNS)


@pytest.fixture(scope="module")
def student() -> Student:
    """An untrained student, for whom every picture has some tokens."""
    return Student("resnet-tiny", StudentParams(), DIM).eval()


@pytest.fixture
def drawn() -> RelationSet:
    """One quadruple of each task, with a teacher that answers at random."""
    scenes = [draw_relation("relations-val", number, 0) for number in range(2 * len(TASKS))]
    questions = (
        Question(i, scene.caption, (scene.foil,), scene.task, scene.group) for i, (_, scene) in enumerate(scenes)
    )
    choices = ChoiceSet(tuple(questions))
    draw, texts = np.random.default_rng(0), len(choices.texts)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape, np.float32)

    valid, none = np.ones((texts, COLUMNS), bool), np.full((texts, COLUMNS), -1, np.int64)
    pooled, words = normal(texts, DIM), normal(texts, COLUMNS, DIM)
    tokens = TokenArrays(normal(len(scenes), DIM), normal(len(scenes), GRID * GRID, DIM), pooled, words, valid, none)
    return RelationSet(choices, tokens, none, np.stack([image for image, _ in scenes]))


def test_a_students_images_take_the_place_of_the_teachers_and_texts_stay(student: Student, drawn: RelationSet) -> None:
    seen = with_tokens_of(student, drawn, GRID)
    assert np.array_equal(seen.tokens.image_pooled, embed_pixels(student, drawn.pixels))
    assert np.allclose(seen.tokens.patches, embed_places(student, drawn.pixels, GRID), atol=1e-3)
    assert seen.choices is drawn.choices
    for name in ("text_pooled", "words", "valid"):
        assert getattr(seen.tokens, name) is getattr(drawn.tokens, name)
    shown = seen.of_tasks(["place"]).tokens  # Rows of images are the picture's, whichever task is asked.
    assert np.array_equal(shown.patches, seen.tokens.patches)


def test_a_scorer_fitted_further_begins_with_the_teachers(drawn: RelationSet) -> None:
    def weights(scorers: dict[str, Scorer]) -> np.ndarray:
        return np.concatenate([one.detach().numpy().ravel() for one in scorers["place"].parameters()])

    still, place = PARAMS.model_copy(update={"learning_rate": 1e-12}), drawn.of_tasks(["place"])
    taught = fit_each(place, PARAMS)
    assert list(taught) == ["place"]
    assert np.allclose(weights(taught), weights(fit_each(place, still, taught)), atol=1e-6)
    assert not np.allclose(weights(taught), weights(fit_each(place, still)), atol=1e-6)  # Negative control.


def test_accuracies_are_of_the_scorer_and_of_both_held_out_parts(student: Student, drawn: RelationSet) -> None:
    images, texts = drawn.tokens.image_pooled, drawn.tokens.text_pooled
    for (image, text), asked in zip(drawn.choices.pairs.reshape(-1, 2, 2)[:, 0], drawn.choices.questions, strict=True):
        assert drawn.choices.texts[text] == asked.caption
        images[image] = texts[text]  # A picture that is its true caption.
    sets = {"relations-train": drawn, "relations-val": drawn, "relations-unseen": with_tokens_of(student, drawn, GRID)}
    found = accuracies(sets, dict.fromkeys(TASKS, CosineScorer()), PARAMS, "cosine")
    assert [found[f"{task} cosine"] for task in TASKS] == [1.0] * len(TASKS)
    assert min(found[f"{task} cosine unseen"] for task in TASKS) < 1  # Negative control: an untrained student.


def test_the_parts_of_a_cache_are_all_of_its_shards(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    packed(layout, "train", {"source": "sample", "part": "train", "images": 4})
    embedded(layout, "train", format="int8")
    store = EmbeddingStore.open(layout.embeddings("train"))
    shards = [path for path in store.folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    parts = bytes_per_image(store)
    assert 4 * sum(parts.values()) == pytest.approx(sum(path.stat().st_size for path in shards))
    dim, places = store.dim, store.patches().places
    assert parts["patches/view-00"] > places * (dim + 4)
