"""What was seen of a student while it learnt, one row for each look."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = dict[str, float]


def render_history(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the rows as CSV, six digits each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: format(value, ".6g") for name, value in row.items()} for row in rows)
    return text.getvalue()


class Board:
    """The same rows for TensorBoard, in one event file of a folder, written while the student learns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shown = 0

    def show(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Add the rows that are new; the first call starts the file anew, so a resumed run shows all of its past."""
        from torch.utils.tensorboard import SummaryWriter  # a second, for those who ask for it

        if not self._shown:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        with SummaryWriter(str(self.folder)) as writer:
            for row in rows[self._shown :]:
                for name, value in row.items():
                    if name != "step":
                        writer.add_scalar(name, value, int(row["step"]))
        self._shown = len(rows)
