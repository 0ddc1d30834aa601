"""Cost of the models: parameters, operations, file size, latency."""

from __future__ import annotations

from typing import Any

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import empty_state
from pipeline.reporting.page import Cell, ReportSection, TableBlock

COLUMNS = ("model", "form", "pixels", "M parameters", "M MACs", "MB", "ms, 1 thread", "p95")


def cost_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate the measurements of `profile`: students, their exports and the teacher."""
    results = inputs.results
    costs = {(c["name"], c["form"]): c for arm in results.arms for c in (arm.profile or {}).get("costs", [])}
    if not costs:
        return ReportSection("Cost", [empty_state("profile", "python cli.py profile")])
    order = sorted(costs.values(), key=lambda each: each["form"].startswith("teacher"))
    teachers = sum(each["form"].startswith("teacher") for each in order)
    grid = TableBlock(
        "cost", COLUMNS, tuple(map(_row, order)), "Batch size 1, on the machine that ran `profile`.", teachers
    )
    return ReportSection("Cost", [grid], "Latencies depend on the machine; ratios are more reliable.")


def _row(results: dict[str, Any]) -> tuple[Cell, ...]:
    times = results["latency"][0] if results["latency"] else {"median": None, "p95": None}
    numbers = (
        (results["image_size"], 1, "d"),
        (results["parameters"], 1e6, ".2f"),
        (results["macs"], 1e6, ".1f"),
        (results["size_bytes"], 1e6, ".1f"),
        (times["median"], 1, ".1f"),
        (times["p95"], 1, ".1f"),
    )
    texts = ["" if value is None else f"{value / unit if unit != 1 else value:{form}}" for value, unit, form in numbers]
    cells = (Cell(text, "profile.json\npython cli.py profile") for text in texts)
    return Cell(results["name"], heading=True), Cell(results["form"], heading=True), *cells
