"""Accuracy by domain, for labelled sets with several domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import arm_cells, get_path, percent, provenance
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock
from pipeline.reporting.palette import Palette
from pipeline.reporting.results import ArmResults

LEAD = (
    "Top-1 accuracy on each domain, and in parentheses the mean over the classes, which is lower for a student that "
    "ignores rare classes. The mean gives equal weight to all domains; the worst is that of the hardest domain."
)
SCORES = ("accuracy", "balanced")


def domain_section(inputs: ReportInputs) -> ReportSection | None:
    """Tabulate accuracies by domain, one table per rule; None if no split has domains."""
    measured = [arm for arm in inputs.results.measured if get_path(arm.metrics or {}, "domains")]
    if not measured:
        return None
    # Not the rules of the zero-shot sets: val may be the only labelled split.
    rules = dict.fromkeys(rule for each in (measured[0].metrics or {})["domains"].values() for rule in each)
    tables = [_table(measured, rule, inputs.colors) for rule in rules]
    blocks: list[Block] = [table for table in tables if table is not None]
    return ReportSection("Domains", blocks, LEAD)


def _table(measured: Sequence[ArmResults], rule: str, colors: Palette) -> TableBlock | None:
    """Return one row per arm, and one for the teacher: the domains of each split, their mean, and the worst."""
    first, *_ = measured
    paths = _paths(get_path(first.metrics or {}, "domains"), rule)
    if not paths:
        return None
    rows = [(*arm_cells(arm, colors), *(_cell(arm, path, "student") for path in paths.values())) for arm in measured]
    teacher = Cell("teacher", heading=True), Cell("", heading=True)
    rows.append((*teacher, *(_cell(first, path, "ceiling") for path in paths.values())))
    caption = f"Rule {rule}; in per cent, in parentheses the mean over classes."
    return TableBlock(f"domains-{rule}", ("student", "target space", *paths), tuple(rows), caption, reference_rows=1)


def _paths(scores: Mapping[str, Any], rule: str) -> dict[str, str]:
    """Return the path of each column's value, by the column's title."""
    paths = {}
    for split, rules in scores.items():
        if rule not in rules:
            continue
        names = list(rules[rule]["student"].get("domains", {}))
        for name in names:
            paths[name if name == split else f"{split}, {name}"] = f"{split}/{rule}/{{who}}/domains/{name}"
        for what in ("mean", "worst") if len(names) != 1 else ():
            paths[f"{split}, {what}"] = f"{split}/{rule}/{{who}}/{what}"
    return paths


def _cell(arm: ArmResults, path: str, who: str) -> Cell:
    where = f"domains/{path.format(who=who)}"
    accuracy, balanced = (get_path(arm.metrics or {}, f"{where}/{name}") for name in SCORES)
    if accuracy is None:
        return Cell("")
    return Cell(f"{percent(accuracy)} ({percent(balanced)})", provenance(arm, where))
