"""Interrupted runs on disk: absent, whole, or not taken for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from pipeline.students.training.optimizer import build_optimizer
from pipeline.students.training.state import TrainState, load_state, save_state


def made(name: str = "adamw", seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    return TrainState(
        {"model": model}, build_optimizer(name, [model], [model], 1e-2, 0.1), torch.amp.GradScaler(enabled=False)
    )


def step(training: TrainState, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    training.optimizer.zero_grad()
    training.modules["model"](x).square().mean().backward()
    training.optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb", "adafactor", "nadamw"])
def test_the_next_step_after_loading_is_the_step_that_would_have_been(tmp_path: Path, name: str) -> None:
    first = made(name)
    step(first, 1)
    save_state(tmp_path / "state", first, {"step": 1})
    step(first, 2)
    second = made(name, seed=9)
    assert load_state(tmp_path / "state", second) == {"step": 1}
    step(second, 2)
    weights = [training.modules["model"].state_dict().values() for training in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_moments_lie_in_memory_as_their_weights_do(tmp_path: Path) -> None:
    """Fused kernels walk both as they lie: with another order they would mix up the weights silently."""
    first = made()
    step(first, 1)
    save_state(tmp_path / "state", first, {"step": 1})
    second = made(seed=9)
    load_state(tmp_path / "state", second)
    weight = cast(Any, second.modules["model"])[0].weight
    assert second.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert weight.stride() != weight.contiguous().stride()


def test_nothing_and_half_a_file_are_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "none", made()) is None
    training = made()
    step(training, 1)
    save_state(tmp_path / "state", training, {"step": 1})
    whole = (tmp_path / "state").read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        (tmp_path / "state").write_bytes(whole[:cut])
        assert load_state(tmp_path / "state", made()) is None


def test_facts_come_back_in_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    """The columns of a resumed history.csv are those of an uninterrupted one."""
    training = made()
    save_state(tmp_path / "state", training, {"step": 3, "history": [{"step": 1, "loss": 0.1, "epoch": 0.5}]})
    facts = load_state(tmp_path / "state", made())
    assert facts is not None
    assert list(facts["history"][0]) == ["step", "loss", "epoch"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_one_flipped_bit_is_no_state_and_is_said(
    tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path, training = tmp_path / "state", made()
    step(training, 1)
    save_state(path, training, {"step": 1})
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    path.write_bytes(data)
    assert load_state(path, made()) is None
    assert f"{path}: damaged, so training begins from its first step" in capsys.readouterr().err
    data[int(share * (len(data) - 1))] ^= 4
    path.write_bytes(data)
    assert load_state(path, made()) == {"step": 1}  # Negative control.


def test_a_state_in_the_place_of_another_runs_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    save_state(tmp_path / "one" / "state", made(), {"step": 1})
    (tmp_path / "one" / "state").rename(tmp_path / "two" / "state")
    assert load_state(tmp_path / "two" / "state", made()) is None
    assert "of another run" in capsys.readouterr().err
