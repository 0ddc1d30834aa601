"""The comparison on a frozen trunk: its arms, its steps, and what its report says of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import frozen_students
from benchmarks.frozen_arms import ARMS, FAMILIES, HeadArm
from benchmarks.frozen_report import print_report
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.runner import Trial
from pipeline.students.losses.scaling import build_objective
from tests.factories.students import made_feed


def outputs(arm: HeadArm, scale: float) -> torch.Tensor:
    """Train a head on 48 rows of features for two epochs; return its outputs in units of the targets."""
    targets = made_feed(scale=scale).targets
    features = torch.from_numpy(np.random.default_rng(4).standard_normal((48, 10)).astype(np.float32))
    frozen, rows = SimpleNamespace(features={"train": features}), torch.from_numpy(targets.image[0])
    objective = build_objective(arm.loss, targets)
    task = frozen_students.HeadTask(frozen, arm, None, rows, objective, targets.image_stats)  # type: ignore[arg-type]
    head = task.start_head(seed=1)
    assert len(list(frozen_students.learning_steps(task, head, Trial("x", 1, 1e-2, 2), 6))) == 6
    return head(features).detach() / scale


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_relative_steps_make_a_head_of_small_targets_the_one_of_unit_targets(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_students, "BATCH", 16)
    relative = replace(ARMS["raw"], optimizer=optimizer, head_steps="relative")
    assert torch.allclose(outputs(relative, 1 / 16), outputs(relative, 1.0), atol=1e-3)
    absolute = replace(relative, head_steps="absolute")  # Negative control.
    assert not torch.allclose(outputs(absolute, 1 / 16), outputs(absolute, 1.0), atol=1e-2)


def test_arms_differ_and_their_runs_never_meet() -> None:
    facts = [str(arm.facts()) for arm in ARMS.values()]
    assert len(set(facts)) == len(ARMS)


def test_every_arm_belongs_to_a_question_and_is_compared_with_an_arm_of_it() -> None:
    assert {arm for family in FAMILIES.values() for arm in family.arms} == set(ARMS)
    for family in FAMILIES.values():
        assert set(family.references) <= set(family.arms)


def test_the_report_pairs_runs_by_seed_at_each_arms_best_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arm: str, seed: int, rate: float, accuracy: float) -> RunResult:
        final = {"clip": accuracy, "whitened": 0.2, "recall clip": accuracy, "r2": 0.5}
        return RunResult(arm, seed, rate, 3, (1.0, 2.0, 3.0), {"clip": (0.1, 0.2, accuracy)}, final, {}, 1.0)

    runs = [run("raw", 0, 1e-3, 0.3), run("raw", 0, 3e-3, 0.2), run("scale", 0, 1e-3, 0.4)]
    for seed in (1, 2, 3):
        runs += [run("raw", seed, 1e-3, 0.30 + seed / 100), run("scale", seed, 1e-3, 0.35 + seed / 100 + seed**2 / 1e4)]
    print_report(runs, tmp_path)
    printed = capsys.readouterr().out
    assert "| raw | 0.001 | 3 | 32.0 ± 2.5 |" in printed
    assert "| +5.0 [+4.9, +5.1] |" in printed  # 5.047 ± 4.303 · 0.0404/√3
    assert printed.count("3 epochs, target spaces") == 1
    assert "published losses" not in printed
    assert (tmp_path / "curves-3.svg").read_text(encoding="utf-8").startswith("<svg")


def test_an_arm_of_pairs_takes_one_of_its_images_captions_and_an_arm_without_takes_none() -> None:
    targets = made_feed(captions=3).targets
    rows, stats = torch.from_numpy(targets.image[0]), targets.image_stats
    own = targets.own_captions
    objective = build_objective(ARMS["raw icl tau"].loss, targets)
    task = frozen_students.HeadTask(None, ARMS["raw icl tau"], None, rows, objective, stats, own)  # type: ignore[arg-type]
    chosen = np.array([5, 0, 7])
    first, last = own.captions_of(chosen)
    assert (last - first > 1).any()
    for draw, numbers in ((0.0, first), (0.999, last - 1)):
        text = task.batch(chosen, np.full(3, draw)).text
        assert text is not None
        np.testing.assert_array_equal(text.numpy(), own.text[numbers])
    assert replace(task, captions=None).batch(chosen, np.zeros(3)).text is None
