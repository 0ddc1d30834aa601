"""The teacher of each arm, and the score of each head of a student of several next to its own teacher's."""

from __future__ import annotations

from typing import Any

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import get_path, percent, provenance
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock
from pipeline.reporting.results import ArmResults

LEAD = (
    "Each arm next to the ceilings of its teachers. A student of several teachers is scored for each head, in its "
    "teacher's space, and for the ensemble: the mean of the scores over teachers with a text tower."
)


def teacher_section(inputs: ReportInputs) -> ReportSection | None:
    """Tabulate arms by teacher and head; None if all arms have the same teacher."""
    results = inputs.results
    models = {_model(arm) for arm in results.measured}
    if len(models) < 2 and not any("teachers" in (arm.metrics or {}) for arm in results.measured):
        return None
    rows = [row for arm in results.measured for row in _rows(inputs, arm)]
    sets = [f"{split} · {rule} %" for split in results.sets for rule in results.rules]
    columns = ("arm", "teacher", *sets, "val R@1 %", "R² on val")
    caption = "Student / ceiling of the same teacher. –: the teacher has no text tower."
    blocks: list[Block] = [TableBlock("teachers", columns, tuple(rows), caption)]
    return ReportSection("Teachers", blocks, LEAD)


def _rows(inputs: ReportInputs, arm: ArmResults) -> list[tuple[Cell, ...]]:
    metrics = arm.metrics or {}
    heads = metrics.get("teachers", {})
    whole = "ensemble" if heads else _model(arm)
    table_rows = [_row(inputs, arm, whole, metrics, "")]
    return table_rows + [_row(inputs, arm, name, own, f"teachers/{name}/") for name, own in heads.items()]


def _row(inputs: ReportInputs, arm: ArmResults, name: str, metrics: dict[str, Any], prefix: str) -> tuple[Cell, ...]:
    results = inputs.results
    cells = [Cell(arm.name, heading=True), Cell(name, heading=True)]
    for split in results.sets:
        for rule in results.rules:
            numbers = get_path(metrics, f"zero_shot/{split}/{rule}") or {}
            text = f"{percent(numbers['student'])} / {percent(numbers['ceiling'])}" if numbers else "–"
            cells.append(Cell(text, provenance(arm, f"{prefix}zero_shot/{split}/{rule}")))
    rule = next(iter(results.rules), "clip")
    numbers = get_path(metrics, f"retrieval/val/{rule}") or {}
    recalls = [_recall(numbers[who]) for who in ("student", "ceiling")] if numbers else []
    cells.append(Cell(" / ".join(map(percent, recalls)) or "–", provenance(arm, f"{prefix}retrieval/val/{rule}")))
    fit = get_path(metrics, "agreement/val/r2_raw")
    cells.append(Cell("" if fit is None else f"{fit:.2f}", provenance(arm, f"{prefix}agreement/val/r2_raw")))
    return tuple(cells)


def _model(arm: ArmResults) -> str:
    return str((arm.card or {}).get("teacher", {}).get("model", ""))


def _recall(ways: dict[str, Any]) -> float:
    return float(sum(way["R@1"] for way in ways.values()) / len(ways))
