"""A tower that learns to see small photos: its loss, what it is shown, and that it learns, and goes on after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax

from benchmarks import adapt_tower
from benchmarks.frozen_features import normalized, pooled

TOWER, SIDE = "test_efficientnet", 64


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Noise of several grains: what becomes of it when it is made small differs from photo to photo."""
    rng = np.random.default_rng(0)
    grains = [int(grain) for grain in rng.choice([1, 2, 4, 8], 40)]
    return [
        rng.integers(0, 256, (SIDE // grain, SIDE // grain, 3), np.uint8).repeat(grain, 0).repeat(grain, 1)
        for grain in grains
    ]


def new_tower() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a tower with random weights, and these with its classifier's."""
    torch.manual_seed(0)
    weights = timm.create_model(TOWER, num_classes=12).state_dict()
    tower = timm.create_model(TOWER, num_classes=0)
    tower.load_state_dict({name: weights[name] for name in tower.state_dict()})
    return tower.eval(), weights


def test_the_loss_is_the_error_of_features_and_the_divergence_of_classes() -> None:
    rng = np.random.default_rng(1)
    own, aim, weight, bias = (rng.standard_normal(shape) for shape in ((5, 4), (5, 4), (3, 4), (3,)))

    def loss(features: np.ndarray) -> float:
        seen, aims, *classifier = (torch.from_numpy(array) for array in (features, aim, weight, bias))
        return adapt_tower.self_distillation_loss(seen, aims, 2.5, (classifier[0], classifier[1])).item()

    p, q = (log_softmax(rows @ weight.T + bias, axis=1) for rows in (aim, own))
    expected = ((own - aim) ** 2).sum(axis=1).mean() / 2.5 + 0.3 * (np.exp(p) * (p - q)).sum(axis=1).mean()
    assert loss(own) == pytest.approx(expected)
    assert loss(aim) == pytest.approx(0, abs=1e-12)
    assert loss(own[::-1].copy()) != pytest.approx(expected)  # Negative control: rows belong together.


def test_labels_are_compared_among_the_classes_that_have_photos_and_no_label_costs_nothing() -> None:
    rng = np.random.default_rng(4)
    rows, weight, bias = (rng.standard_normal(shape) for shape in ((5, 4), (3, 4), (3,)))
    labels = np.array([2, -1, 0, 0, -1])

    def loss(given: np.ndarray) -> float:
        seen, *classifier = (torch.from_numpy(array) for array in (rows, weight, bias))
        return adapt_tower.label_loss(seen, torch.from_numpy(given), (classifier[0], classifier[1])).item()

    shares = log_softmax(rows @ weight.T + bias, axis=1)
    assert loss(labels) == pytest.approx(-(shares[0, 2] + shares[2, 0] + shares[3, 0]) / 3)
    assert loss(np.full(5, -1)) == 0
    assert loss(np.array([2, -1, 1, 0, -1])) != pytest.approx(loss(labels))  # Negative control: labels matter.


def test_photos_with_labels_are_named_better_afterwards_and_others_teach_the_features_alone(
    tmp_path: Path, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt_tower, "LEARNING_RATE", 3e-3)
    coarse = [np.array_equal(photo[0::4], photo[1::4]) for photo in photos]
    labels = np.array([-1 if i % 3 == 0 else 3 if coarse[i] else 7 for i in range(len(photos))])
    targets = pooled(new_tower()[0], photos)

    def surprise(given: np.ndarray) -> float:
        """Return the cross-entropy of the labelled photos among their two classes, after training with some labels."""
        tower, weights = new_tower()
        weights["classifier.weight"] *= 30  # as decided as a trained one
        adapt_tower.adapt_tower(tower, weights, photos, targets, given, out=tmp_path / "tower.safetensors", steps=20)
        rows, known = torch.from_numpy(pooled(tower, photos)), torch.tensor([3, 7])
        places = torch.from_numpy(np.array([{3: 0, 7: 1}.get(int(label), -1) for label in labels]))
        classifier = (weights["classifier.weight"][known], weights["classifier.bias"][known])
        return adapt_tower.label_loss(rows, places, classifier).item()

    assert surprise(labels) < 0.8 * surprise(np.full(len(photos), -1))


def test_four_photos_in_five_are_made_small_and_keep_their_size(photos: list[np.ndarray]) -> None:
    rng, fine = np.random.default_rng(2), photos[0]
    shown = [adapt_tower.degrade(fine, rng) for _ in range(400)]
    assert all(each.shape == fine.shape for each in shown)
    assert sum(not np.array_equal(each, fine) for each in shown) == pytest.approx(320, abs=40)


def test_a_tower_learns_to_see_small_photos_and_goes_on_where_it_was_stopped(
    tmp_path: Path, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt_tower, "SAVE_STEPS", 5)
    monkeypatch.setattr(adapt_tower, "LEARNING_RATE", 3e-3)
    tower, weights = new_tower()
    targets, rng = pooled(tower, photos), np.random.default_rng(3)
    small = [adapt_tower.degrade(photo, rng) for photo in photos]

    def error(learned: torch.nn.Module) -> float:
        with torch.no_grad():
            rows = learned(normalized(small)).numpy()
        return float(((rows - targets) ** 2).sum(axis=1).mean() / targets.var(axis=0).sum())

    before = error(tower)
    labels = np.where(np.arange(len(photos)) % 2, 5, -1)
    adapt_tower.adapt_tower(tower, weights, photos, targets, labels, out=tmp_path / "whole.safetensors", steps=30)
    assert error(tower) < 0.7 * before

    kept = load_file(tmp_path / "whole.safetensors")
    assert kept.keys() == weights.keys()
    same = {name for name in weights if torch.equal(kept[name], weights[name])}
    assert {name for name in weights if "running" in name or "classifier" in name} <= same
    assert "conv_stem.weight" not in same

    calls = iter(range(12))
    loss = adapt_tower.self_distillation_loss

    def stopped(*rows: torch.Tensor, **options: object) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return loss(*rows, **options)  # type: ignore[arg-type]

    out = tmp_path / "stopped.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(adapt_tower, "self_distillation_loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            adapt_tower.adapt_tower(*new_tower(), photos, targets, labels, out=out, steps=30)
    assert not out.exists()
    adapt_tower.adapt_tower(*new_tower(), photos, targets, labels, out=out, steps=30)
    assert all(torch.equal(value, kept[name]) for name, value in load_file(out).items())
    assert list(tmp_path.glob("*.pt")) == []
