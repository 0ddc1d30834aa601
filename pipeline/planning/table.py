"""Print a plan: one line per stage, the total, the available resources, and suggestions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from pipeline.planning.estimate import Estimate, StageEstimate
from pipeline.planning.fitting import Limits, Suggestion
from pipeline.planning.workload import Workload
from pipeline.project.progress import format_seconds
from pipeline.project.terminal import PlainConsole

WEEK = 7 * 86400.0


@dataclass(frozen=True)
class ProjectPlan:
    """Counts, measurements, and the resulting estimates."""

    work: Workload
    estimate: Estimate
    limits: Limits
    suggestions: Sequence[Suggestion]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Return whether it fits into time, disk and memory."""
        return self.limits.allow(self.estimate)


def plan_json(plan: ProjectPlan) -> dict[str, Any]:
    """Return a plan as JSON-serializable seconds and bytes."""
    machine, estimate, limits = plan.work.machine, plan.estimate, plan.limits
    return {
        "device": machine.device,
        "cores": machine.cores,
        "stages": [_stage_json(stage) for stage in estimate.stages],
        "total": {
            "seconds": round(estimate.seconds, 2),
            "not_estimated": [_label(stage) for stage in estimate.unknown],
            "disk_bytes": round(estimate.disk_bytes),
            "memory_bytes": round(estimate.memory_bytes),
        },
        "limits": {name: None if value is None else round(value) for name, value in asdict(limits).items()},
        "fits": plan.fits,
        "suggestions": [asdict(one) for one in plan.suggestions],
        "measured": {
            "start_seconds": {kind: getattr(machine, f"{kind}_start") for kind in ("light", "middle", "heavy")},
            "teachers": [asdict(teacher) for teacher in machine.teachers or ()],
            "students": {name: asdict(speed) for name, speed in machine.students.items()},
            "splits": {name: asdict(split) for name, split in plan.work.splits.items()},
        },
        "notes": list(plan.notes),
    }


def _stage_json(stage: StageEstimate) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "name": stage.name,
        "there": stage.progress.is_whole,
        "done": stage.progress.done,
        "total": stage.progress.total,
        "unit": stage.unit,
        "seconds": None if stage.seconds is None else round(stage.seconds, 2),
        "disk_bytes": round(stage.disk_bytes),
        "memory_bytes": round(stage.memory_bytes),
        "note": stage.note,
    }


def print_plan(plan: ProjectPlan, console: PlainConsole) -> None:
    """Print a plan."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "of", "to do", "there", "time", "disk", "memory"):
        table.add_column(name, justify="left" if name in ("stage", "of") else "right", overflow="fold")
    for stage in plan.estimate.stages:
        table.add_row(*_cells(stage))
    console.print(table)
    for line in _lines(plan):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _cells(stage: StageEstimate) -> Iterator[str]:
    progress = stage.progress
    yield from (stage.stage, stage.name)
    left = progress.total - progress.done
    yield (f"{left:,} {stage.unit}" if stage.unit else "once") if left else "–"
    yield "all" if progress.is_whole else f"{progress.done:,}" if progress.done else "–"
    if progress.is_whole:
        yield from ("–", "–", "–")
        return
    yield stage.note if stage.seconds is None else format_seconds(stage.seconds)
    yield from (format_bytes(stage.disk_bytes), format_bytes(stage.memory_bytes))


def _lines(plan: ProjectPlan) -> Iterator[str]:
    machine, estimate, limits = plan.work.machine, plan.estimate, plan.limits
    where = f"{machine.device}, {machine.cores} core{'s' if machine.cores > 1 else ''}"
    week = ", more than a week" if estimate.seconds > WEEK else ""
    yield ""
    yield (
        f"in all on this machine ({where}): {format_seconds(estimate.seconds)}{week}, "
        f"{format_bytes(estimate.disk_bytes)} of disk ({format_bytes(limits.disk_bytes)} free), "
        f"{format_bytes(estimate.memory_bytes)} of memory"
        + (f" ({format_bytes(limits.memory_bytes)} free)" if limits.memory_bytes is not None else "")
    )
    if estimate.unknown:
        yield f"without {', '.join(_label(stage) for stage in estimate.unknown)}, which cannot be estimated"
    yield from plan.notes
    if plan.fits:
        yield f"that fits into {format_seconds(limits.seconds)}"
        return
    yield f"to fit into {format_seconds(limits.seconds)}, what is free of disk and of memory:"
    width = max((len(_flags(one)) for one in plan.suggestions), default=0)
    for one in plan.suggestions:
        short = "" if one.fits else ": not enough alone"
        yield f"  {_flags(one).ljust(width)}  {format_seconds(one.seconds)}, {format_bytes(one.disk_bytes)}{short}"
    if not any(one.fits for one in plan.suggestions):
        yield "  nothing of this is enough: a GPU, a smaller teacher, or a larger --budget"


def _flags(one: Suggestion) -> str:
    return " ".join(f"--set {setting}" for setting in one.settings)


def _label(stage: StageEstimate) -> str:
    return f"{stage.stage} {stage.name}".strip()


def format_bytes(count: float) -> str:
    """Return a readable size: 0.3 MB, 81 MB, 4.6 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1e6:.1f} MB" if count else "–"
