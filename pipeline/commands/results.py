"""Print the results: one line per arm or named run, each accuracy next to its ceiling and chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cache.atomic import write_text
from pipeline.evaluation.model_files import check_arm, read_arm_card, read_metrics
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole

ArmName = tuple[str, str]
Metrics = Mapping[str, Any]
Measured = dict[tuple[str, ...], Metrics]


def results(arms: Sequence[ArmName], zero_shot: Sequence[str], layout: Layout, rules: Sequence[str] = ()) -> None:
    """Print the table of results of every arm of the parameters, and the path of the report.

    Raises:
        CacheError: the metrics of an arm are damaged, or of another student.
    """
    console = _console()
    measured: Measured = {arm: metrics for arm in arms if (metrics := _metrics(layout.model(*arm), layout))}
    if measured:
        console.print(score_table(("student", "target space"), measured, zero_shot, rules))
    for student, target in (arm for arm in arms if arm not in measured):
        console.print(f"no result for {student}-{target} yet: run `dvc repro`")
    if layout.report.exists():
        console.print(f"report: {layout.report.resolve()}", soft_wrap=True)


def run_results(names: Sequence[str], zero_shot: Sequence[str], layout: Layout, rules: Sequence[str] = ()) -> None:
    """Print named runs in one table, and plot their learning curves to report/runs.svg.

    Raises:
        UsageError: a run does not exist.
        CacheError: a run's files are damaged, or the plot cannot be written.
    """
    from pipeline.reporting.comparison.plots import draw_runs
    from pipeline.reporting.results import read_run_folder

    runs = {name: read_run_folder(_finished_run(name, layout)) for name in dict.fromkeys(names)}
    measured: Measured = {(name, run.student, run.target): run.metrics for name, run in runs.items() if run.metrics}
    console = _console()
    if measured:
        console.print(score_table(("run", "student", "target space"), measured, zero_shot, rules))
    for name in (name for name, run in runs.items() if not run.metrics):
        console.print(f"no result for run {name} yet: `python cli.py evaluate --name {name}`")
    if svg := draw_runs(runs):
        path = layout.report.parent / "runs.svg"
        write_text(path, svg)
        console.print(f"plot: {path.resolve()}", soft_wrap=True)


def score_table(heading: Sequence[str], measured: Measured, zero_shot: Sequence[str], rules: Sequence[str]) -> Table:
    """Return zero-shot accuracy by set and scoring rule, and retrieval R@1, in per cent.

    The given rules come first, in this order, then all others.
    """
    columns = _columns(measured.values(), zero_shot, rules)
    table = Table(title="student / ceiling of its teacher under the same rule, in %", title_justify="left")
    for name in heading:
        table.add_column(name)
    for name, _ in columns:
        table.add_column(name, justify="right")
    for names, metrics in measured.items():
        table.add_row(*names, *(_cell(metrics, path) for _, path in columns))
    return table


def _columns(
    measured: Collection[Metrics], zero_shot: Sequence[str], rules: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    parts = [(name, ("zero_shot", name)) for name in zero_shot] + [("val R@1", ("retrieval", "val"))]
    columns: list[tuple[str, tuple[str, ...]]] = []
    for title, path in parts:
        used = [rule for metrics in measured for rule in metrics.get(path[0], {}).get(path[1], {})]
        order = [rule for rule in dict.fromkeys((*rules, *used)) if rule in used]
        columns += [(f"{title} {rule}", (*path, rule)) for rule in order]
    return columns


def _finished_run(name: str, layout: Layout) -> Path:
    """Return the folder of a run; raises UsageError if it does not exist."""
    folder = layout.run(name)
    if not (folder / "student.json").is_file():
        there = sorted(path.parent.name for path in folder.parent.glob("*/student.json"))
        hint = f"there are {', '.join(there)}{did_you_mean(name, there)}" if there else "there is none yet"
        raise UsageError(f"--name {name}: no finished run in {folder}; {hint}. Make one: `distill --name {name}`.")
    return folder


def _console() -> PlainConsole:
    return PlainConsole(width=None if PlainConsole().is_terminal else 120)


def _cell(metrics: Metrics, path: tuple[str, ...]) -> str:
    value: Any = metrics
    for name in path:
        value = value.get(name, {})
    if not value:
        return "–"
    student, ceiling = (_recall(value[who]) for who in ("student", "ceiling"))
    return f"{100 * student:.1f} / {100 * ceiling:.1f}"


def _recall(scores: float | dict[str, Any]) -> float:
    """Return an accuracy unchanged, and for retrieval the mean R@1 of the two directions."""
    if isinstance(scores, dict):
        return float(sum(scores[way]["R@1"] for way in ("image_to_text", "text_to_image")) / 2)
    return scores


def _metrics(folder: Path, layout: Layout) -> dict[str, Any] | None:
    card = read_arm_card(folder)
    if card is None:
        return None
    check_arm(folder, card, layout)
    return read_metrics(folder, card)
