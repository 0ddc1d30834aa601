"""Measure the cost of students and their teacher: parameters, MACs, file size and latency, in float and int8."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.deployment.cost import Cost, Latency, latency, macs, parameter_count, torch_latency
from pipeline.deployment.onnx_session import image_size, open_session
from pipeline.deployment.predictor import check_exported
from pipeline.evaluation.model_files import check_arm, write_profile
from pipeline.project.layout import WEIGHTS, Layout
from pipeline.project.terminal import PlainConsole
from pipeline.students.checkpoint import load_student, read_card
from pipeline.teacher.params import TeacherParams


def profile(arms: Sequence[tuple[str, str]], layout: Layout, teacher: TeacherParams | None) -> list[Cost]:
    """Measure each finished arm, its exports, and the teacher if given.

    The results of each arm go to profile.json next to its weights, not to metrics.json, which must be the same for
    every run.
    """
    reference = [teacher_cost(teacher)] if teacher else []
    costs: list[Cost] = []
    for student, target in arms:
        folder = layout.model(student, target)
        if (folder / WEIGHTS).is_file():
            exported = layout.root / "exports" / folder.name
            check_arm(folder, read_card(folder), layout)
            measured = [student_cost(folder), *(graph_cost(path) for path in sorted(exported.glob("*.onnx")))]
            write_profile(folder, read_card(folder), [cost.as_json() for cost in [*measured, *reference]])
            costs += measured
    return [*costs, *reference]


def student_cost(folder: Path) -> Cost:
    """Measure a student in torch."""
    student = load_student(folder)
    size = int(student.card["image_size"])  # type: ignore[call-overload]  # a card is JSON
    times = tuple(torch_latency(student, size, threads) for threads in _threads())
    weights = (folder / WEIGHTS).stat().st_size
    return Cost(folder.name, "torch fp32", size, parameter_count(student), macs(student, size), weights, times)


def graph_cost(path: Path) -> Cost:
    """Measure an exported graph in onnxruntime."""
    check_exported(path)
    form = "onnx int8" if "int8" in path.name else "onnx fp32"
    size = image_size(open_session(path))
    times = tuple(_graph_latency(path, size, threads) for threads in _threads())
    return Cost(path.parent.name, form, size, None, None, path.stat().st_size, times)


def teacher_cost(params: TeacherParams) -> Cost:
    """Measure the teacher's image tower; raises UsageError if it cannot be loaded."""
    from pipeline.teacher.model import load_teacher  # imported only if the teacher is measured

    teacher = load_teacher(params, "cpu")
    tower: Any = teacher.model.visual  # open_clip's attribute for the image tower of every model
    size = teacher.identity.image_size
    times = tuple(torch_latency(tower, size, threads) for threads in _threads())
    count = parameter_count(tower)
    return Cost(params.name, "teacher, torch fp32", size, count, macs(tower, size), 4 * count, times)


def print_costs(costs: Sequence[Cost]) -> None:
    """Print the costs as a table."""
    table = Table(title="cost of one image, batch 1", title_justify="left")
    for column in ("model", "form", "px", "parameters", "MACs", "file"):
        table.add_column(column, justify="left" if column in ("model", "form") else "right")
    for threads in _threads():
        table.add_column(f"ms, {threads} thread{'s' if threads > 1 else ''} (p95)", justify="right")
    for cost in costs:
        table.add_row(
            cost.name,
            cost.form,
            str(cost.image_size),
            _millions(cost.parameters),
            _millions(cost.macs),
            f"{cost.size_bytes / 1e6:.2f} MB" if cost.size_bytes else "–",
            *(f"{time.median:.2f} ({time.p95:.2f})" for time in cost.latency),
        )
    PlainConsole(width=None if PlainConsole().is_terminal else 140).print(table)


def _graph_latency(path: Path, size: int, threads: int) -> Latency:
    session = open_session(path, threads)
    pixels = np.zeros((1, size, size, 3), np.uint8)
    return latency(lambda: session.run(None, {"image": pixels}), threads)


def _threads() -> list[int]:
    return sorted({1, os.cpu_count() or 1})


def _millions(count: int | None) -> str:
    return f"{count / 1e6:.2f} M" if count else "–"
