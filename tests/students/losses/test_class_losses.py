"""Losses between images and the words for their class, against slow references; and where classes come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from pipeline.students.inputs.targets import Targets, load_targets
from pipeline.students.losses.language import (
    DistillationParams,
    LabeledBatch,
    RelativeParams,
    kd,
    label,
    rise_absolute,
    rise_relative,
)
from pipeline.students.losses.objective import BatchTargets, LossParams, StudentOutputs
from pipeline.students.losses.scaling import build_objective, fit_training_logit_scale
from tests.factories.embeddings import write_split
from tests.factories.students import DIM, made_feed, made_pixels, made_targets, trained
from tests.students.test_model import made_space

B, C, J, K = 7, 4, 3, 5
SCALE, TEACHER_SCALE, T = 6.0, 9.0, 3.0


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((*shape, K)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def batch(seed: int, scale: float = SCALE, y: torch.Tensor | None = None) -> LabeledBatch:
    """Return images that have nothing to do with their words, and words of J domains near those for the classes."""
    classes = torch.from_numpy(unit(rows(seed + 1, C).numpy()))
    domains = torch.from_numpy(unit((classes[:, None] + 0.5 * rows(seed + 2, C, J)).numpy()))
    label = torch.from_numpy(np.random.default_rng(seed).integers(0, C, B))
    y = rows(seed, B) if y is None else y
    return LabeledBatch(y, label, classes, scale, rows(seed + 3, B), TEACHER_SCALE, domains)


def relative(anchors: str, measure: str) -> RelativeParams:
    return RelativeParams.model_validate({"anchors": anchors, "measure": measure})


def written_out(given: LabeledBatch) -> dict[str, float]:
    """Return every loss image by image from its formula, with scipy's softmax, in float64."""
    y, t, teacher = (unit(x.double().numpy()) for x in (given.image, given.classes, given.teacher_image))
    a, label = np.asarray(given.domains, np.float64), np.asarray(given.label)
    found = dict.fromkeys(
        ("label", "kd", "rise_absolute", "classes kl", "classes mse", "domains kl", "domains mse"), 0.0
    )
    for i, c in enumerate(label):
        found["label"] -= log_softmax([given.scale * (y[i] @ t[k]) for k in range(C)])[c] / B
        p = log_softmax([given.teacher_scale * (teacher[i] @ t[k]) / T for k in range(C)])
        q = log_softmax([given.scale * (y[i] @ t[k]) / T for k in range(C)])
        found["kd"] += T**2 * sum(np.exp(p[k]) * (p[k] - q[k]) for k in range(C)) / B
        found["rise_absolute"] += (1 - y[i] @ t[c]) / B
        for name, texts in (("classes", [t[k] for k in range(C)]), ("domains", [a[c, j] for j in range(J)])):
            p = log_softmax([given.teacher_scale * (t[c] @ x) for x in texts])
            q = log_softmax([given.scale * (y[i] @ x) for x in texts])
            found[f"{name} kl"] += sum(np.exp(m) * (m - n) for m, n in zip(p, q, strict=True)) / B
            p, q = (np.exp(log_softmax([v @ x for x in texts])) for v in (t[c], y[i]))
            # Huang et al.'s code: ten times the mean over images and anchors, no temperature.
            found[f"{name} mse"] += 10 * sum((p - q) ** 2) / (B * len(texts))
    return found


LOSSES: dict[str, Callable[[LabeledBatch], torch.Tensor]] = {
    "label": label,
    "kd": lambda given: kd(given, DistillationParams(temperature=T)),
    "rise_absolute": rise_absolute,
    **{
        f"{anchors} {measure}": partial(rise_relative, params=relative(anchors, measure))
        for anchors in ("classes", "domains")
        for measure in ("kl", "mse")
    },
}


@given(seed=st.integers(0, 10_000), scale=st.floats(1, 30))
@settings(max_examples=20, deadline=None)
def test_each_loss_equals_its_formula_written_out(seed: int, scale: float) -> None:
    made = batch(seed, scale)
    wanted = written_out(made)
    assert wanted.keys() == LOSSES.keys()
    for name, loss in LOSSES.items():
        assert loss(made).item() == pytest.approx(wanted[name], rel=1e-9), name


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_slopes_of_the_formulas(name: str) -> None:
    y = rows(5, B).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: LOSSES[name](batch(5, y=y)), (y,))
    # Against the reference written out, along one direction, by central differences.
    way, step = rows(6, B), 1e-6
    ends = [written_out(batch(5, y=(y + sign * step * way).detach()))[name] for sign in (1, -1)]
    (gradient,) = torch.autograd.grad(LOSSES[name](batch(5, y=y)), y)
    assert (gradient * way).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_minds_lengths_or_the_order_of_classes_and_domains(name: str) -> None:
    made, loss = batch(3), LOSSES[name]
    wanted = loss(made).item()
    assert loss(replace(made, image=7 * made.image, teacher_image=3 * made.teacher_image)).item() == pytest.approx(
        wanted
    )
    order = torch.tensor([2, 0, 3, 1])
    assert made.domains is not None
    assert made.classes is not None
    assert made.label is not None
    moved = replace(
        made, classes=made.classes[order], domains=made.domains[order][:, [1, 2, 0]], label=order.argsort()[made.label]
    )
    assert loss(moved).item() == pytest.approx(wanted)
    # Negative control: other labels are another loss, but for `kd`, which knows none.
    other = loss(replace(made, label=(made.label + 1) % C)).item()
    assert (other == pytest.approx(wanted)) is (name == "kd")


def test_an_image_that_is_its_words_has_no_distance_to_them() -> None:
    made = batch(0, scale=TEACHER_SCALE)
    own = replace(made, image=7 * made.classes[made.label])
    names = set(LOSSES) - {"label", "kd"}
    for name in names:
        assert LOSSES[name](own).item() == pytest.approx(0, abs=1e-12), name
        # Negative control: the words for other classes do have one.
        assert LOSSES[name](replace(made, image=made.classes[(made.label + 1) % C])).item() > 1e-3, name
    assert LOSSES["kd"](replace(made, image=made.teacher_image)).item() == pytest.approx(0, abs=1e-12)
    assert LOSSES["label"](own).item() > 0


def test_the_temperature_of_kd_changes_no_order_of_its_gradient() -> None:
    y = rows(1, B).requires_grad_()
    norms = []
    for temperature in (30.0, 300.0):
        loss = kd(batch(1, y=y), DistillationParams(temperature=temperature))
        norms.append(torch.autograd.grad(loss, y)[0].norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)  # Hinton's limit: T² takes back what softening costs


def clip_like(cosine: float) -> LabeledBatch:
    """Return an untrained student beside words as alike as CLIP's, of seven classes and of each in three domains."""
    rng, dim = np.random.default_rng(0), 512
    common = rng.standard_normal(dim)
    spread = np.sqrt(1 / cosine - 1)
    classes = unit(common + spread * rng.standard_normal((7, dim)))
    domains = unit(classes[:, None] + 0.5 / np.sqrt(dim) * rng.standard_normal((7, 3, dim)))
    y, labels = rng.standard_normal((64, dim)), torch.from_numpy(rng.integers(0, 7, 64))
    images, words, own = (torch.from_numpy(x) for x in (y, classes, domains))
    return LabeledBatch(images.requires_grad_(), labels, words, 100.0, images.detach(), 100.0, own)


def test_relative_distances_as_published_are_nearly_no_loss_beside_absolute_ones() -> None:
    made = clip_like(0.8)

    def share(loss: torch.Tensor) -> float:
        absolute = torch.autograd.grad(rise_absolute(made), made.image)[0].norm()
        return (torch.autograd.grad(loss, made.image, retain_graph=True)[0].norm() / absolute).item()

    published, ours = (rise_relative(made, relative(*each)) for each in (("domains", "mse"), ("classes", "kl")))
    assert 1e-4 < share(published) < 0.02  # 0.3 % for words like CLIP's, by the authors' own code
    assert share(ours) > 1
    # Negative control: beside words that differ more from domain to domain, the same loss says more.
    assert made.domains is not None
    wide = torch.nn.functional.normalize(made.domains + rows_like(made.domains), dim=-1)
    assert share(rise_relative(replace(made, domains=wide), relative("domains", "mse"))) > 2 * share(published)


def rows_like(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(9).standard_normal(tuple(x.shape))) / np.sqrt(x.shape[-1])


def test_domains_are_asked_for_where_there_are_some() -> None:
    with pytest.raises(UsageError, match="several domains"):
        rise_relative(replace(batch(0), domains=None), relative("domains", "mse"))


def test_relative_distances_are_a_weight_or_say_their_measure() -> None:
    values = 0.5, {"weight": 0.5, "measure": "mse"}
    plain, published = (LossParams.model_validate({"rise_relative": value}) for value in values)
    assert plain.weights == published.weights == {"rise_relative": 0.5}
    assert plain.model_dump()["rise_relative"] == 0.5  # as it stood in fingerprints before there was a choice
    assert published.model_dump()["rise_relative"] == {"weight": 0.5, "anchors": "classes", "measure": "mse"}
    assert (plain.uses_temperature, published.uses_temperature) == (True, False)
    softened = LossParams.model_validate({"kd": {"weight": 0.8, "temperature": 4.0}, "label": 0.2})
    assert softened.weights == {"label": 0.2, "kd": 0.8}
    assert softened.model_dump()["kd"] == {"weight": 0.8, "temperature": 4.0}
    assert LossParams.model_validate({"kd": 0.8}).model_dump()["kd"] == 0.8
    assert softened.uses_temperature
    assert LossParams.model_validate({"rise_relative": {"anchors": "domains"}}).needs_domains
    assert not plain.needs_domains
    assert not {"label", "kd"} & LossParams(fd=1.0).model_dump().keys()
    assert "rise_relative" not in LossParams(fd=1.0).model_dump()
    for wrong, words in (({"measure": "mae"}, "rise_relative.measure"), ({"anchor": 1}, "unknown key"), (-1, "weight")):
        with pytest.raises(UsageError, match=words):
            parse({"rise_relative": wrong}, "distill.loss", LossParams)


def labeled(captions: int = 0) -> Targets:
    targets = made_targets(made_pixels(), captions=captions)
    classes = unit(np.random.default_rng(4).standard_normal((3, DIM))).astype(np.float32)
    nearest = (targets.image[0] @ classes.T).argmax(1).astype(np.int64)
    domains = unit(classes[:, None] + 0.3 * np.random.default_rng(5).standard_normal((3, 2, DIM))).astype(np.float32)
    return replace(targets, labels=nearest, classes=classes, domains=domains)


def test_the_fitted_temperature_is_where_the_cached_images_name_their_classes_best() -> None:
    targets = labeled()
    assert targets.labels is not None
    assert targets.classes is not None
    truth = np.where(np.arange(len(targets.labels)) % 5 == 0, (targets.labels + 1) % 3, targets.labels)
    targets = replace(targets, labels=truth)
    assert targets.classes is not None
    logits = unit(targets.image[0].astype(np.float64)) @ targets.classes.T.astype(np.float64)
    best = brute(
        lambda s: -log_softmax(np.exp(s[0]) * logits, axis=1)[range(len(truth)), truth].mean(), [(0, 4.6)], Ns=400
    )
    assert np.log(fit_training_logit_scale(targets)) == pytest.approx(float(best[0]), abs=1e-3)


@pytest.mark.parametrize("loss", [
    {"rise_absolute": 1, "rise_relative": 0.2},
    {"rise_absolute": 1, "rise_relative": {"measure": "mse"}},
    {"rise_absolute": 1, "label": 0.2, "kd": 0.8, "rise_relative": {"anchors": "domains", "measure": "mse"}},
])  # fmt: skip
def test_a_student_learns_its_classes_from_their_words_alone(tmp_path: Path, loss: dict[str, object]) -> None:
    feed = made_feed()
    feed = replace(feed, targets=labeled())
    _, history = trained(tmp_path / "s", feed=feed, loss=loss, epochs=30, num_validations=30, weight_decay=0)
    assert history[-1]["rise_absolute"] < 0.5 * history[0]["rise_absolute"]
    assert {f"gradient_{name}" for name in loss} <= history[0].keys()


def test_labels_and_class_vectors_come_from_the_cache_in_the_target_space(tmp_path: Path) -> None:
    rng, space = np.random.default_rng(0), made_space()
    image, prompts = rng.standard_normal((6, DIM)).astype(np.float32), rng.standard_normal((4, DIM)).astype(np.float32)
    shard = PromptShard(prompts, ("cat", "dog"), ("a {c}", "one {c}"))
    label = np.array([0, 1, 1, 0, 1, 0])
    store = EmbeddingStore.open(write_split(tmp_path / "labelled", [image], label=label, prompts=shard))
    targets = load_targets(store, space, labels=True)
    assert targets.classes is not None
    assert targets.labels is not None
    each = unit(space.to_target(prompts, "text").astype(np.float64))
    np.testing.assert_allclose(targets.classes, unit(np.stack([each[:2].mean(0), each[2:].mean(0)])), atol=1e-6)
    assert targets.labels.tolist() == label.tolist()
    assert load_targets(store, space).labels is None
    assert targets.domains is None
    own = load_targets(store, space, labels=True, domains={"photo": ["one {c}"], "sketch": ["one {c}", "a {c}"]})
    assert own.domains is not None
    assert own.domains.shape == (2, 2, DIM)
    np.testing.assert_allclose(own.domains[:, 0], each[[1, 3]], atol=1e-6)
    np.testing.assert_allclose(own.domains[:, 1], targets.classes, atol=1e-6)


def test_losses_over_classes_need_classes(tmp_path: Path) -> None:
    store = EmbeddingStore.open(write_split(tmp_path / "plain", [np.eye(DIM, dtype=np.float32)]))
    with pytest.raises(UsageError, match="need classes, and the train split has none"):
        load_targets(store, made_space(), labels=True)
    objective = build_objective(LossParams(rise_absolute=1.0), labeled())
    with pytest.raises(UsageError, match="need classes"):
        objective(StudentOutputs(torch.ones(2, DIM)), BatchTargets(torch.ones(2, DIM)))
    assert "rise_absolute" not in LossParams(fd=1.0).model_dump()
