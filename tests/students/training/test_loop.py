"""The loop: it learns, it is the same twice, and a killed run ends where an uninterrupted one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.project.errors import PipelineError
from pipeline.students.training import loop as training
from pipeline.students.training.loop import should_stop_early
from pipeline.students.training.state import save_state
from tests import ROOT
from tests.factories.students import SIZE, TEXT, made_feed, made_student, trained

ALL = {
    "fd": 1,
    "mfd": 0.5,
    "cosine": 1,
    "icl": 0.1,
    "crd": 0.1,
    "gd": 0.01,
    "afd": 0.1,
    "bank_size": 8,
    "mask_patch": 4,
    "temperature": "learn",
}


class KilledError(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


def weights(student: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_student_learns_what_can_be_learnt(tmp_path: Path) -> None:
    student = made_student(learning_rate=3e-3)
    _, history = trained(tmp_path / "state", student=student, epochs=15, num_validations=5, weight_decay=0)
    # 1 is what predicting the mean costs, and about where the head starts.
    assert history[-1]["fd"] < 0.4
    assert history[-1]["fd"] < history[0]["fd"]


def test_two_runs_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, rows = trained(tmp_path / "a", loss=ALL)
    again, same = trained(tmp_path / "b", loss=ALL)
    assert_equal(weights(first), weights(again))
    assert rows == same
    other, _ = trained(tmp_path / "c", feed=made_feed(seed=1, captions=2, bank_size=8), loss=ALL)
    assert not torch.equal(weights(other)["head.0.weight"], weights(first)["head.0.weight"])


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize(
    "how",
    [
        {"loss": ALL, "ema_decay": 0.9, "gradient_clip": 1.0},
        {"optimizer": "sgd", "accumulation_steps": 2},
        {"optimizer": "lion", "schedule": "constant"},
    ],
)
def test_a_killed_run_resumed_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], stop: int
) -> None:
    whole, rows = trained(tmp_path / "whole", student=made_student(backbone={"drop_rate": 0.2}), **how)
    real = save_state

    def save_then_die(path: Path, state: Any, facts: dict[str, Any]) -> None:
        real(path, state, facts)
        if facts["step"] == stop:
            raise KilledError

    monkeypatch.setattr(training, "save_state", save_then_die)
    student = made_student(backbone={"drop_rate": 0.2})
    with pytest.raises(KilledError):
        trained(tmp_path / "cut", student=student, every_seconds=0, **how)
    monkeypatch.setattr(training, "save_state", real)
    torch.manual_seed(999)
    resumed, same = trained(tmp_path / "cut", student=made_student(backbone={"drop_rate": 0.2}), **how)
    assert_equal(weights(whole), weights(resumed))
    assert rows == same


@pytest.mark.parametrize("stop", [1, 5])
def test_a_killed_student_that_reads_resumes_bit_for_bit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    how: dict[str, Any] = {"loss": {**ALL, "infonce": 0.1}, "ema_decay": 0.9, "gradient_clip": 1.0}

    def run(name: str, **more: Any) -> tuple[torch.nn.Module, list[dict[str, float]]]:
        feed = made_feed(captions=2, bank_size=8, tokens=True)
        return trained(tmp_path / name, feed=feed, student=made_student(text=TEXT), **how, **more)

    whole, rows = run("whole")
    real = save_state

    def save_then_die(path: Path, state: Any, facts: dict[str, Any]) -> None:
        real(path, state, facts)
        if facts["step"] == stop:
            raise KilledError

    monkeypatch.setattr(training, "save_state", save_then_die)
    with pytest.raises(KilledError):
        run("cut", every_seconds=0)
    monkeypatch.setattr(training, "save_state", real)
    torch.manual_seed(999)
    resumed, same = run("cut")
    assert_equal(weights(whole), weights(resumed))
    assert rows == same
    assert {"gradient_fd", "gradient_text_fd", "gradient_text_infonce"} <= rows[0].keys()
    assert rows[0]["gradient_text_mfd"] == 0 < rows[0]["gradient_text_fd"]
    # Negative control: the tower did learn.
    fresh = cast(Any, made_student(text=TEXT)).text.trunk.state_dict()
    name = "transformer.resblocks.0.attn.in_proj_weight"
    assert not torch.equal(fresh[name], cast(Any, whole).text.trunk.state_dict()[name])


@pytest.mark.slow
def test_a_process_killed_anywhere_goes_on_from_its_last_saved_step(tmp_path: Path) -> None:
    """SIGKILL in the middle of things, not at a step's end."""
    program = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "from tests.factories.students import trained\n"
        "def work(name):\n"
        "    student, _ = trained(Path(name), epochs=3, every_seconds=0)\n"
        "    save_file({k: v.contiguous() for k, v in student.state_dict().items()}, name + '.done')\n"
        "kills, seconds = 0, 0.3\n"
        "while not Path('cut.done').exists():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        work('cut')\n"
        "        os._exit(0)\n"
        "    time.sleep(seconds)\n"
        "    os.kill(child, signal.SIGKILL)\n"
        "    os.waitpid(child, 0)\n"
        "    kills, seconds = kills + 1, 1.5 * seconds\n"
        "work('whole')\n"
        "sys.exit(0 if kills > 1 else 3)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "whole.done").read_bytes() == (tmp_path / "cut.done").read_bytes()


def test_accumulating_parts_of_a_batch_is_the_batch_for_a_student_without_batch_norm(tmp_path: Path) -> None:
    found = [
        weights(
            trained(tmp_path / str(n), student=made_student("test_nfnet"), accumulation_steps=n, optimizer="sgd")[0]
        )
        for n in (1, 4)
    ]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-5)


def test_raw_and_scaled_spaces_start_alike_and_pull_alike(tmp_path: Path) -> None:
    """The first step's loss, and the gradient that reaches the trunk, are the same at any scale of the targets."""
    seen = []
    for scale in (1.0, 30.0):
        _, (row,) = trained(tmp_path / str(scale), feed=made_feed(scale=scale, batch=48), epochs=1, num_validations=1)
        seen.append([row["fd"], row["gradient_fd"]])
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-4)


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"the loss is (nan|inf) at step"):
        trained(tmp_path / "state", student=made_student(learning_rate=1e30), epochs=8)


def test_a_run_stops_early_when_held_out_images_gain_nothing(tmp_path: Path) -> None:
    values = iter([0.9, 0.8, 0.85, 0.81, 0.1])
    _, history = trained(
        tmp_path / "s", epochs=5, num_validations=5, patience=2, look=lambda _: {"val_nmse": next(values)}
    )
    assert [row["val_nmse"] for row in history] == [0.9, 0.8, 0.85, 0.81]


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12), patience=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_stale_means_no_new_lowest_value_within_the_patience(values: list[float], patience: int) -> None:
    history = [{"val_nmse": value} for value in values]
    lowest = min(range(len(values)), key=lambda i: (values[i], i))
    assert should_stop_early(history, patience) == (len(values) - 1 - lowest >= patience)
    assert not should_stop_early(history, None)


def test_the_moving_average_is_what_is_kept_and_looked_at(tmp_path: Path) -> None:
    looked: list[torch.nn.Module] = []
    student = made_student()

    def look(model: torch.nn.Module) -> dict[str, float]:
        looked.append(model)
        return {"val_nmse": 1.0}

    kept, _ = trained(tmp_path / "s", student=student, ema_decay=0.9, look=look)
    assert kept is not student
    assert all(one is kept for one in looked)
    assert not kept.training


def test_history_says_what_each_loss_was_and_how_hard_it_pulled(tmp_path: Path) -> None:
    _, history = trained(tmp_path / "s", loss={"fd": 1, "cosine": 3})
    for row in history:
        assert row["loss"] == pytest.approx(row["fd"] + 3 * row["cosine"], rel=1e-5)
        assert row["gradient_fd"] > 0
    assert [row["step"] for row in history] == [3, 6]
    assert SIZE == 16
