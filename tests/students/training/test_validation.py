"""What is seen of a student while it learns, against figures taken by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import r2_score

from cache.reader import EmbeddingStore
from pipeline.students.inference import CenterViews, embed_pixels
from pipeline.students.inputs.targets import load_targets
from pipeline.students.training.validation import (
    Validator,
    ZeroShotSet,
    load_zero_shot_set,
    nmse,
    render_history,
)
from tests.factories.stores import make_store
from tests.factories.students import DIM, made_pixels, made_student
from tests.students.test_model import made_space


def test_nmse_is_one_minus_r_squared_weighted_by_variance() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((50, 4)) * [1, 5, 0.1, 2] + 3
    said = wanted + rng.standard_normal((50, 4))
    assert 1 - nmse(said, wanted) == pytest.approx(r2_score(wanted, said, multioutput="variance_weighted"), rel=1e-9)


def test_a_look_reports_held_out_error_and_accuracy_and_leaves_the_student_learning() -> None:
    pixels, space, student = made_pixels(20), made_space(), made_student().train()
    rng = np.random.default_rng(0)
    images = CenterViews(pixels, np.tile(np.array([0, 0, 1, 1], np.float32), (20, 1)), np.zeros(20, bool))
    target = rng.standard_normal((20, DIM)).astype(np.float32)
    classes, labels = rng.standard_normal((3, DIM)).astype(np.float32), rng.integers(0, 3, 20)
    found = Validator(space, 16, 7, images, target, ZeroShotSet(images, labels, classes))(student)
    assert student.training
    said = embed_pixels(student.eval(), pixels.images)
    clip = space.to_embedding(said)
    scores = clip / np.linalg.norm(clip, axis=1, keepdims=True) @ classes.T
    assert found["zero_shot"] == np.mean(scores.argmax(1) == labels)
    assert found["val_nmse"] == pytest.approx(nmse(said, target), rel=1e-4)


def test_a_split_without_labels_is_not_watched(tmp_path: Path) -> None:
    store = EmbeddingStore.open(make_store(tmp_path / "val", dim=DIM))
    assert load_zero_shot_set(store, made_pixels(12)) is None


def test_targets_are_the_cached_rows_as_the_space_sees_them(tmp_path: Path) -> None:
    store, space = EmbeddingStore.open(make_store(tmp_path / "train", views=2, dim=DIM)), made_space()
    both, one = load_targets(store, space, texts=True), load_targets(store, space, views=1)
    for view in range(2):
        expected = space.to_target(store.image(view).load())
        assert np.array_equal(both.image[view], expected)
    assert one.image.shape == (1, 12, DIM)
    assert one.text is None
    assert np.array_equal(np.asarray(both.text), space.to_target(store.text().load(), "text"))
    assert both.image_stats.mean == pytest.approx(both.image.reshape(-1, DIM).mean(0), abs=1e-6)
    assert both.image_stats.variance == pytest.approx(both.image.reshape(-1, DIM).var(0).mean(), rel=1e-5)
    assert both.image_stats.rms_norm == pytest.approx(np.sqrt((both.image**2).sum(-1).mean()), rel=1e-5)
    with pytest.raises(ValueError, match="without captions"):
        _ = one.own_captions


def test_history_is_a_table_with_six_digits_a_number() -> None:
    rows = [{"step": 1, "loss": 1 / 3}, {"step": 20, "loss": 1e-9 / 3}]
    assert render_history(rows) == "step,loss\n1,0.333333\n20,3.33333e-10\n"
