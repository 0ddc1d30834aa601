"""Experiment trackers of the training history: TensorBoard and, if installed, Weights & Biases, offline by default."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.project.errors import UsageError
from pipeline.students.training.validation import HistoryRow, TensorBoardLogger

WANDB_PROJECT = "wclip-kd"
LogRows = Callable[[list[HistoryRow]], None]


@contextmanager
def open_trackers(
    folder: Path, name: str, config: Mapping[str, Any], *, tensorboard: Path | None, wandb: bool
) -> Iterator[LogRows]:
    """Yield a function that logs history rows to every requested tracker, and close the trackers at the end.

    Raises:
        UsageError: Weights & Biases is requested but not installed.
    """
    board = TensorBoardLogger(tensorboard) if tensorboard else None
    run = WandbRun(folder, name, config) if wandb else None

    def log_rows(rows: list[HistoryRow]) -> None:
        if board:
            board.log(rows)
        if run:
            run.log_rows(rows)

    try:
        yield log_rows
    finally:
        if run:
            run.close()


class WandbRun:
    """A run of Weights & Biases in `folder/wandb`, kept on this disk until `wandb sync`."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise UsageError(
                "distill.wandb: wandb is not installed. Run `python -m pip install -c requirements.txt "
                "-r extras/wandb.txt`, or take the line out."
            )
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=WANDB_PROJECT,
            name=name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
            settings=settings,
            reinit="create_new",
        )
        self._logged = 0

    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log new rows; a resumed training is a new run that logs all rows again."""
        for row in rows[self._logged :]:
            values = {name: value for name, value in row.items() if name != "step"}
            self._run.log(values, step=int(row["step"]))
        self._logged = len(rows)

    def close(self) -> None:
        """Flush the log."""
        self._run.finish()
