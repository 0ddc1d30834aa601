"""Print what came out: one line an arm, each accuracy beside its ceiling and chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.project.layout import Layout

ArmName = tuple[str, str]


def results(arms: Sequence[ArmName], zero_shot: Sequence[str], layout: Layout) -> None:
    """Print the table of results of every arm of the params, and where the report lies."""
    console = Console(width=None if Console().is_terminal else 120)
    measured = {arm: metrics for arm in arms if (metrics := _metrics(layout.model(*arm)))}
    if measured:
        console.print(table(measured, zero_shot))
    for student, target in (arm for arm in arms if arm not in measured):
        console.print(f"no result for {student}-{target} yet: run `dvc repro`")
    if layout.report.exists():
        console.print(f"report: {layout.report.resolve()}", soft_wrap=True)


def table(measured: dict[ArmName, dict[str, Any]], zero_shot: Sequence[str]) -> Table:
    """Return zero-shot accuracy by scoring rule and set, and retrieval R@1, in per cent."""
    columns = _columns(measured, zero_shot)
    made = Table(title="student / ceiling of its teacher under the same rule, in %", title_justify="left")
    made.add_column("student")
    made.add_column("target space")
    for name, _ in columns:
        made.add_column(name, justify="right")
    for (student, target), metrics in measured.items():
        made.add_row(student, target, *(_cell(metrics, path) for _, path in columns))
    return made


def _columns(measured: dict[ArmName, dict[str, Any]], zero_shot: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    first = next(iter(measured.values()))
    sets = [name for name in zero_shot if name in first.get("zero_shot", {})]
    columns = [(f"{name} {rule}", ("zero_shot", name, rule)) for name in sets for rule in first["zero_shot"][name]]
    rules = first.get("retrieval", {}).get("val", {})
    return columns + [(f"val R@1 {rule}", ("retrieval", "val", rule)) for rule in rules]


def _cell(metrics: dict[str, Any], path: tuple[str, ...]) -> str:
    found: Any = metrics
    for name in path:
        found = found.get(name, {})
    if not found:
        return "–"
    student, ceiling = (_recall(found[who]) for who in ("student", "ceiling"))
    return f"{100 * student:.1f} / {100 * ceiling:.1f}"


def _recall(found: float | dict[str, Any]) -> float:
    """Return an accuracy as it is, and of a retrieval the mean R@1 of the two directions."""
    if isinstance(found, dict):
        return float(sum(found[way]["R@1"] for way in ("image_to_text", "text_to_image")) / 2)
    return found


def _metrics(folder: Path) -> dict[str, Any] | None:
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
