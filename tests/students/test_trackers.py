"""What trackers are given is the history, and they decide nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipeline.project.errors import UsageError
from pipeline.students.trackers import open_trackers

ROWS = [{"step": 3, "loss": 1.5, "val_nmse": 0.75}, {"step": 6, "loss": 1.25, "val_nmse": 0.625}]


@pytest.mark.filterwarnings("ignore")  # what wandb says of its own parts
def test_weights_and_biases_gets_each_row_once_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with open_trackers(tmp_path, "arm", {"loss": {"fd": 1}}, tensorboard=None, wandb=True) as log_rows:
        log_rows(ROWS[:1])
        log_rows(ROWS)
    (record,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    data = record.read_bytes()
    for value in (b"0.75", b"0.625", b"val_nmse"):
        assert value in data
    assert b"0.875" not in data  # negative control


def test_without_weights_and_biases_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(UsageError, match=r"distill\.wandb: wandb is not installed.*extras/wandb\.txt"),
        open_trackers(tmp_path, "arm", {}, tensorboard=None, wandb=True),
    ):
        pass


def test_nothing_asked_for_writes_nothing(tmp_path: Path) -> None:
    with open_trackers(tmp_path, "arm", {}, tensorboard=None, wandb=False) as log_rows:
        log_rows(ROWS)
    assert not list(tmp_path.iterdir())
