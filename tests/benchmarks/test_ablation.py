"""The whole recipe and the same without one part: what the arms are, and that one is trained and scored."""

from __future__ import annotations

import sys
from dataclasses import fields

import pytest

from benchmarks import ablation
from benchmarks.ablation import ARMS, FULL, Recipe
from pipeline.project.layout import Layout


def _removed(recipe: Recipe) -> list[str]:
    return [part.name for part in fields(Recipe) if getattr(recipe, part.name) != getattr(FULL, part.name)]


def test_each_arm_lacks_one_part_and_every_part_is_missing_once() -> None:
    parts = [part.name for part in fields(Recipe)]
    single = {name: _removed(recipe) for name, recipe in ARMS.items() if name not in ("full", "none")}
    assert sorted(names[0] for names in single.values()) == sorted(parts)
    assert all(len(names) == 1 for names in single.values())
    assert _removed(ARMS["none"]) == parts


def test_the_moving_average_spans_the_same_share_of_every_budget() -> None:
    whole = FULL.training(16, 45_952, 64, seed=0)  # 359 batches of 128 an epoch: 5,744 steps
    assert whole.ema_decay == pytest.approx(0.998)
    half = ARMS["half"].training(16, 45_952, 64, seed=0)
    assert half.epochs == 8
    assert half.ema_decay == pytest.approx(0.996)
    assert ARMS["weights"].training(16, 45_952, 64, seed=0).ema_decay == 0


def test_arms_are_trained_and_printed_beside_the_whole_recipe(
    project_copy: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--test badges --student mobilenetv3 --size 32 --epochs 2 --seeds 1 --arms full none"
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--root", str(project_copy.root), *options.split()])
    ablation.main()
    printed = capsys.readouterr().out
    assert "full seed 0: zero_shot" in printed
    assert "none               val_nmse" in printed
    ablation.main()
    assert "seed 0:" not in capsys.readouterr().out  # nothing is trained again
