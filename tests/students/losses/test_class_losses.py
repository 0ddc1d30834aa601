"""Losses between images and the words for their class, against slow references; and where classes come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brute
from scipy.special import log_softmax

from cache.reader import EmbeddingStore
from cache.shard import PromptShard
from pipeline.project.errors import UsageError
from pipeline.project.params import parse
from pipeline.students.inputs.targets import load_targets
from pipeline.students.losses.objective import BatchTargets, LossParams, StudentOutputs
from pipeline.students.losses.rowwise import class_anchors, relative_kl, relative_mse, rise_absolute
from pipeline.students.losses.scaling import build_objective, fit_training_logit_scale
from tests.factories.embeddings import write_split
from tests.factories.students import DIM, made_feed, made_pixels, made_targets, trained
from tests.students.test_model import made_space

B, C, K = 7, 4, 5


def rows(seed: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, K)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


@given(seed=st.integers(0, 10_000), scale=st.floats(1, 30))
@settings(max_examples=20, deadline=None)
def test_each_loss_equals_its_formula_written_out(seed: int, scale: float) -> None:
    y, t = rows(seed, B), torch.from_numpy(unit(rows(seed + 1, C).numpy()))
    label = torch.from_numpy(np.random.default_rng(seed).integers(0, C, B))
    image, words = unit(y.numpy()), t.numpy()
    gaps = [1 - float(image[i] @ words[label[i]]) for i in range(B)]
    assert rise_absolute(y, label, t).item() == pytest.approx(np.mean(gaps), rel=1e-9)
    total = 0.0
    for i in range(B):
        p = log_softmax([9.0 * float(words[label[i]] @ words[j]) for j in range(C)])
        q = log_softmax([scale * float(image[i] @ words[j]) for j in range(C)])
        total += sum(np.exp(p[j]) * (p[j] - q[j]) for j in range(C))
    assert relative_kl(class_anchors(y, label, t), scale, 9.0).item() == pytest.approx(total / B, rel=1e-9)
    square = 0.0
    for i in range(B):
        p = np.exp(log_softmax([float(words[label[i]] @ words[j]) for j in range(C)]))
        q = np.exp(log_softmax([float(image[i] @ words[j]) for j in range(C)]))
        square += sum((p[j] - q[j]) ** 2 for j in range(C))
    # Huang et al.'s code: ten times the mean over images and anchors, no temperature.
    assert relative_mse(class_anchors(y, label, t)).item() == pytest.approx(10 * square / (B * C), rel=1e-9)


def test_an_image_that_is_its_words_has_no_distance_to_them_and_length_does_not_matter() -> None:
    t = torch.from_numpy(unit(rows(0, C).numpy()))
    label = torch.tensor([2, 0, 3])
    assert rise_absolute(7 * t[label], label, t).item() == pytest.approx(0, abs=1e-12)
    own = class_anchors(7 * t[label], label, t)
    assert relative_kl(own, 9.0, 9.0).item() == pytest.approx(0, abs=1e-12)
    assert relative_mse(own).item() == pytest.approx(0, abs=1e-12)
    # Negative control: other words do have one.
    other = class_anchors(t[label.roll(1)], label, t)
    assert relative_kl(other, 9.0, 9.0).item() > 0.1
    assert relative_mse(other).item() > 1e-3


def test_the_published_measure_has_a_far_smaller_gradient_than_the_divergence() -> None:
    t = torch.from_numpy(unit(rows(0, C).numpy()))
    y, label = rows(1, B).requires_grad_(), torch.from_numpy(np.random.default_rng(0).integers(0, C, B))
    losses = relative_kl(class_anchors(y, label, t), 20.0, 20.0), relative_mse(class_anchors(y, label, t))
    kl, mse = (torch.autograd.grad(loss, y)[0].norm().item() for loss in losses)
    assert kl > 20 * mse > 0


def test_relative_distances_are_a_weight_or_say_their_measure() -> None:
    values = 0.5, {"weight": 0.5, "measure": "mse"}
    plain, published = (LossParams.model_validate({"rise_relative": value}) for value in values)
    assert plain.weights == published.weights == {"rise_relative": 0.5}
    assert plain.model_dump()["rise_relative"] == 0.5  # as it stood in fingerprints before there was a choice
    assert published.model_dump()["rise_relative"] == {"weight": 0.5, "anchors": "classes", "measure": "mse"}
    assert (plain.uses_temperature, published.uses_temperature) == (True, False)
    assert "rise_relative" not in LossParams(fd=1.0).model_dump()
    for wrong, words in (({"measure": "mae"}, "rise_relative.measure"), ({"anchor": 1}, "unknown key"), (-1, "weight")):
        with pytest.raises(UsageError, match=words):
            parse({"rise_relative": wrong}, "distill.loss", LossParams)


def labelled(captions: int = 0) -> object:
    targets = made_targets(made_pixels(), captions=captions)
    classes = unit(np.random.default_rng(4).standard_normal((3, DIM))).astype(np.float32)
    nearest = (targets.image[0] @ classes.T).argmax(1).astype(np.int64)
    return replace(targets, labels=nearest, classes=classes)


def test_the_fitted_temperature_is_where_the_cached_images_name_their_classes_best() -> None:
    targets = labelled()
    truth = np.where(np.arange(len(targets.labels)) % 5 == 0, (targets.labels + 1) % 3, targets.labels)
    targets = replace(targets, labels=truth)
    logits = unit(targets.image[0].astype(np.float64)) @ targets.classes.T.astype(np.float64)
    best = brute(
        lambda s: -log_softmax(np.exp(s[0]) * logits, axis=1)[range(len(truth)), truth].mean(), [(0, 4.6)], Ns=400
    )
    assert np.log(fit_training_logit_scale(targets)) == pytest.approx(float(best[0]), abs=1e-3)


@pytest.mark.parametrize("relative", [0.2, {"weight": 1.0, "measure": "mse"}])
def test_a_student_learns_its_classes_from_their_words_alone(tmp_path: Path, relative: object) -> None:
    feed = made_feed()
    feed = replace(feed, targets=labelled())
    loss = {"rise_absolute": 1, "rise_relative": relative}
    _, history = trained(tmp_path / "s", feed=feed, loss=loss, epochs=30, evaluations=30, weight_decay=0)
    assert history[-1]["rise_absolute"] < 0.5 * history[0]["rise_absolute"]
    assert {"gradient_rise_absolute", "gradient_rise_relative"} <= history[0].keys()


def test_labels_and_class_vectors_come_from_the_cache_in_the_target_space(tmp_path: Path) -> None:
    rng, space = np.random.default_rng(0), made_space()
    image, prompts = rng.standard_normal((6, DIM)).astype(np.float32), rng.standard_normal((4, DIM)).astype(np.float32)
    shard = PromptShard(prompts, ("cat", "dog"), ("a {c}", "one {c}"))
    label = np.array([0, 1, 1, 0, 1, 0])
    store = EmbeddingStore.open(write_split(tmp_path / "labelled", [image], label=label, prompts=shard))
    targets = load_targets(store, space, labels=True)
    each = unit(space.to_target(prompts, "text").astype(np.float64))
    np.testing.assert_allclose(targets.classes, unit(np.stack([each[:2].mean(0), each[2:].mean(0)])), atol=1e-6)
    assert targets.labels.tolist() == label.tolist()
    assert load_targets(store, space).labels is None


def test_losses_over_classes_need_classes(tmp_path: Path) -> None:
    store = EmbeddingStore.open(write_split(tmp_path / "plain", [np.eye(DIM, dtype=np.float32)]))
    with pytest.raises(UsageError, match="need classes, and the train split has none"):
        load_targets(store, made_space(), labels=True)
    objective = build_objective(LossParams(rise_absolute=1.0), labelled())
    with pytest.raises(UsageError, match="need classes"):
        objective(StudentOutputs(torch.ones(2, DIM)), BatchTargets(torch.ones(2, DIM)))
    assert "rise_absolute" not in LossParams(fd=1.0).model_dump()
