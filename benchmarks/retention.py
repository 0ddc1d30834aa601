"""Draw how much of its teacher each student kept, against what it costs.

    python benchmarks/retention.py [--out docs/evidence-retention.svg]

Accuracies are those of the runs in retention.csv, each with the command that gave it. Parameters and milliseconds are
measured here, on the same backbones: processor time of one image on one thread, the median of 20, which other work on
the machine changes little.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.ticker import PercentFormatter, ScalarFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cache.atomic import write_text
from pipeline.reporting.comparison.plots import standalone_svg
from pipeline.reporting.palette import HUES, INK
from pipeline.reporting.svg import SvgFigure, axes, render_svg
from pipeline.students.backbones import BackboneParams, build_backbone

ROWS = Path(__file__).with_name("retention.csv")
TIMED = 20


@dataclass(frozen=True)
class StudentRow:
    """A student that was trained: what it is, and its accuracy beside its teacher's by the same rule."""

    student: str
    label: str
    image_size: int
    stem_stride: int
    imagenet: bool
    accuracy: float
    teacher_accuracy: float

    @property
    def retention(self) -> float:
        """Return the share of the teacher's accuracy that it kept."""
        return self.accuracy / self.teacher_accuracy


@dataclass(frozen=True)
class StudentCost:
    """Parameters of a backbone, and the processor's milliseconds for one image."""

    parameters: int
    milliseconds: float


def read_rows(path: Path) -> list[StudentRow]:
    """Read the table of runs; its column `command` says where each row comes from."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            StudentRow(
                row["student"],
                row["label"],
                int(row["image_size"]),
                int(row["stem_stride"]),
                row["weights"] == "imagenet",
                float(row["accuracy"]),
                float(row["teacher_accuracy"]),
            )
            for row in csv.DictReader(file)
        ]


def measure_cost(row: StudentRow) -> StudentCost:
    """Build a backbone with weights of chance, which cost the same, and time it."""
    params = BackboneParams.model_validate({"stem_stride": row.stem_stride})
    backbone = build_backbone(row.student, params).eval()
    image = torch.zeros(1, 3, row.image_size, row.image_size)
    times = []
    with torch.inference_mode():
        for _ in range(TIMED + 5):
            begin = time.process_time()
            backbone(image)
            times.append(1000 * (time.process_time() - begin))
    return StudentCost(sum(p.numel() for p in backbone.parameters()), statistics.median(times[5:]))


def draw_retention(rows: Sequence[StudentRow], costs: Sequence[StudentCost]) -> SvgFigure:
    """Draw retention over milliseconds, the area of a marker as large as the student has parameters."""
    plot = axes(620, 300, left=66, right=230)
    for row, cost in zip(rows, costs, strict=True):
        color = HUES["scale" if row.imagenet else "zca"].light
        plot.scatter(cost.milliseconds, row.retention, s=12 * cost.parameters / 1e6 + 14, color=color, alpha=0.85)
        text = f"{row.label}, {cost.parameters / 1e6:.1f} M"
        below = -13 if row.imagenet else 5  # labels of two students that kept as much do not meet
        plot.annotate(text, (cost.milliseconds, row.retention), (9, below), textcoords="offset points", color=INK)
    plot.set(xscale="log", xlabel="milliseconds an image, one thread", ylabel="kept of the teacher's accuracy")
    plot.set_ylim(0, 1)
    plot.set_xlim(min(c.milliseconds for c in costs) / 1.5, max(c.milliseconds for c in costs) * 1.5)
    plot.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    plot.xaxis.set_major_formatter(ScalarFormatter())
    plot.xaxis.set_minor_formatter(ScalarFormatter())
    summary = ", ".join(f"{row.label} {row.retention:.0%}" for row in rows)
    return render_svg(plot, "Retention", f"Zero-shot CIFAR-10, share of the teacher's: {summary}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the runs, measure the backbones, print the table and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--out", type=Path, default=Path("docs/evidence-retention.svg"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = read_rows(arguments.rows)
    costs = [measure_cost(row) for row in rows]
    for row, cost in zip(rows, costs, strict=True):
        print(
            f"{row.label:32s} {row.image_size:4d} px  {cost.parameters / 1e6:5.2f} M  {cost.milliseconds:6.2f} ms  "
            f"{row.accuracy:5.1f} of {row.teacher_accuracy:4.1f} %: {row.retention:.2f}"
        )
    write_text(arguments.out, standalone_svg(draw_retention(rows, costs)))


if __name__ == "__main__":
    main()
