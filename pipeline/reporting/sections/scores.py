"""Ceilings of the scoring rules, and how far students agree with their teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.reporting.cells import names, nothing, source
from pipeline.reporting.findings import Findings
from pipeline.reporting.page import Cell, Grid, Section
from pipeline.reporting.palette import Palette

Numbers = dict[str, Any]
MEASURES: dict[str, Callable[[Numbers], str]] = {
    "R² raw": lambda a: f"{a['r2_raw']:.3f}",
    "R² whitened": lambda a: f"{a['r2_whitened']:.3f}",
    "cosine": lambda a: f"{a['cosine']:.3f}",
    "CKA": lambda a: f"{a['cka']:.3f}",
    "shared neighbours %": lambda a: f"{100 * a['neighbour_overlap']['share']:.1f}",
}


def ceilings(found: Findings) -> Section:
    """Say what the scoring rule alone costs the teacher."""
    rows = []
    for split in found.sets:
        for rule in found.rules:
            numbers = next((n for arm in found.measured if (n := arm.zero_shot(split, rule))), None)
            if numbers:
                origin = source(found.measured[0], f"zero_shot.{split}.{rule}")
                cells = [Cell(f"{100 * numbers[name]:.1f}", origin) for name in ("ceiling", "chance")]
                cells.append(Cell(f"{numbers['n']:,}", origin))
                rows.append((Cell(split, heading=True), Cell(rule, heading=True), *cells))
    if not rows:
        return Section("Ceilings", [nothing("ceilings", "python cli.py evaluate")])
    lead = (
        "The teacher’s own accuracy under each rule. A rule that costs the teacher costs every student: "
        "compare students under one rule only, and each with its own ceiling."
    )
    return Section("Ceilings", [Grid("ceilings", ("set", "rule", "ceiling %", "chance %", "n"), tuple(rows))], lead)


def agreement(found: Findings, colours: Palette) -> Section:
    """Tabulate how far each student says the same as its teacher."""
    measured = [(arm, n) for arm in found.measured if (n := (arm.metrics or {}).get("agreement", {}).get("val"))]
    if not measured:
        return Section("Agreement", [nothing("agreement", "python cli.py evaluate")])
    rows = []
    for arm, numbers in measured:
        origin = source(arm, "agreement.val")
        bands = [Cell(f"{value:.3f}", origin) for value in numbers["r2_bands"].values()]
        rows.append((*names(arm, colours), *(Cell(say(numbers), origin) for say in MEASURES.values()), *bands))
    bands_named = tuple(f"axes {band}" for band in measured[0][1]["r2_bands"])
    caption = (
        "On the validation images. R² whitened counts each axis above the floor alike; "
        "the last columns are R² by band of axes, the strongest first."
    )
    grid = Grid("agreement", ("student", "target space", *MEASURES, *bands_named), tuple(rows), caption)
    lead = "How far a student says the same as its teacher, before anything is classified."
    return Section("Agreement", [grid], lead)
