"""Results of a comparison: tables, figures, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from cache.atomic import write_json, write_text
from cache.checksums import CHECKSUMS, write_checksums
from pipeline.comparison.evaluator import R2_METRICS
from pipeline.comparison.results import ComparisonResults
from pipeline.comparison.run_store import TUNING_SEED
from pipeline.comparison.statistics import Interval
from pipeline.comparison.verdict import POINTS, verdicts
from pipeline.evaluation.csv_tables import CsvTable, write_tables
from pipeline.project.terminal import escape_markdown
from pipeline.reporting.comparison.figures import figures

SHARES = (0.5, 0.8, 0.9, 1.0)
"""Levels in the table of times; the headline's is in the parameters."""


def write_results(results: ComparisonResults, out: Path) -> Path:
    """Write tables, figures, metrics, the verdict and their hashes into a folder; returns the verdict's file."""
    return write_result_folder(out, tables(results), figures(results), summary(results), verdict(results))


def write_result_folder(
    out: Path,
    rows: Mapping[str, CsvTable],
    figures: Mapping[str, str],
    numbers: Mapping[str, Any],
    sentences: Sequence[str],
) -> Path:
    """Write the results of a comparison, and the hash of every file, into a folder; returns the verdict's file."""
    write_tables(out, rows)
    for name, figure in figures.items():
        write_text(out / f"{name}.svg", figure)
    write_json(out / "summary.json", numbers)
    write_text(out / "verdict.md", "\n".join(sentences) + "\n")
    names = [*(f"{name}.csv" for name in rows), *(f"{name}.svg" for name in figures), "summary.json", "verdict.md"]
    write_checksums(out / CHECKSUMS, names)
    return out / "verdict.md"


def verdict(results: ComparisonResults) -> list[str]:
    """Return the outcome as sentences per budget, negative controls last."""
    params, metric = results.params, results.params.headline_rule
    lines = [
        f"# {escape_markdown(params.student)}: does whitening help?",
        "",
        f"Zero-shot top-1 by the rule `{metric}`, {results.seeds} paired seeds, "
        f"{'each arm at its own best rate' if len(params.learning_rates) > 1 else 'one fixed rate'}. "
        f"Speed-ups are in the time to {params.level_fraction:.0%} of the way from chance to the final accuracy of "
        f"{params.reference}. Intervals are 95 %; a difference is stated only if it is significant by Holm's p over "
        "all arms.",
    ]
    for epochs in sorted(params.epochs):
        lines += ["", f"## {epochs} epochs", "", *_budget(results, epochs)]
    return lines


def _budget(results: ComparisonResults, epochs: int) -> list[str]:
    """Return one line per arm; if the reference does not exceed chance, there is no level for times."""
    params, metric = results.params, results.params.headline_rule
    ends = {name: results.final_interval(name, epochs, metric) for name in params.targets}
    labels = {name: f"**{escape_markdown(name)}**" for name in params.targets}
    lines = [f"* {labels[params.reference]} ends at {format_interval(ends[params.reference])}"]
    if ends[params.reference].low <= results.chance[metric]:
        lines[0] += ": the interval contains chance, so times are not compared at this budget"
        lines += [
            f"* {labels[name]} ends at {format_interval(ends[name])}"
            for name in results.non_control_arms
            if name != params.reference
        ]
    else:
        each = [results.contrasts_with(name, epochs, metric, params.level_fraction) for name in results.references]
        sentences = verdicts(each[0], each[1] if len(each) > 1 else [], params.margin)
        lines += [f"* {labels[name]} ({format_interval(ends[name])}) {text}" for name, text in sentences.items()]
    chance = f"{POINTS * results.chance[metric]:.1f} %"
    insane = [name for name in params.targets if name not in results.non_control_arms]
    return lines + [
        f"* {labels[name]} (negative control) ends at {format_interval(ends[name])}; chance is {chance}"
        for name in insane
    ]


def format_interval(interval: Interval) -> str:
    """Return an accuracy with its interval over seeds."""
    mean, low, high = (POINTS * x for x in (interval.mean, interval.low, interval.high))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def summary(results: ComparisonResults) -> dict[str, dict[str, dict[str, float]]]:
    """Return the means at the end, by budget, arm and metric: what DVC shows as metrics."""
    return {
        f"epochs-{e}": {
            arm: {metric: results.final_interval(arm, e, metric).mean for metric in results.metrics_of(arm)}
            for arm in results.params.targets
        }
        for e in results.params.epochs
    }


def tables(results: ComparisonResults) -> dict[str, CsvTable]:
    """Return final values, contrasts and rates as tables."""
    return {
        "ends": _ends(results),
        "contrasts": _contrasts(results),
        "rates": _rates(results),
        "starts": _starts(results),
    }


def _ends(results: ComparisonResults) -> CsvTable:
    rows = []
    for epochs, arm in product(sorted(results.params.epochs), results.params.targets):
        for metric in results.metrics_of(arm):
            end = results.final_interval(arm, epochs, metric)
            about = results.rates[arm, epochs], results.ceilings_of(arm).get(metric), results.chance.get(metric)
            rows.append((epochs, arm, metric, end.mean, end.low, end.high, end.pairs, *about))
    return CsvTable(("epochs", "arm", "metric", "mean", "low", "high", "seeds", "rate", "ceiling", "chance"), rows)


def _contrasts(results: ComparisonResults) -> CsvTable:
    questions = product(results.references, sorted(results.params.epochs), [*results.params.rules, *R2_METRICS], SHARES)
    contrasts = [
        (share, c) for name, e, metric, share in questions for c in results.contrasts_with(name, e, metric, share)
    ]
    rows = [
        (
            c.epochs,
            c.metric,
            c.reference,
            c.arm,
            share,
            c.level,
            c.speed.ratio,
            c.speed.low,
            c.speed.high,
            c.speed.p,
            c.speed.reference_reached,
            c.speed.arm_reached,
            c.area.mean,
            c.area.low,
            c.area.high,
            c.area.p,
            c.final.mean,
            c.final.low,
            c.final.high,
            c.final.p,
            c.equivalence_p,
            c.paired_sd,
            c.final.pairs,
        )
        for share, c in contrasts
    ]
    names = "epochs metric reference arm share level ratio ratio_low ratio_high ratio_p reference_reached arm_reached"
    ends = "area area_low area_high area_p final final_low final_high final_p equal_p spread seeds"
    return CsvTable(tuple(f"{names} {ends}".split()), rows)


def _rates(results: ComparisonResults) -> CsvTable:
    runs = sorted((r for r in results.runs if r.seed == TUNING_SEED), key=lambda r: (r.epochs, r.arm, r.learning_rate))
    rows = [
        (
            r.epochs,
            r.arm,
            r.learning_rate,
            r.final[results.params.selection_metric],
            r.final[results.params.headline_rule],
            int(results.rates[r.arm, r.epochs] == r.learning_rate),
        )
        for r in runs
    ]
    return CsvTable(
        ("epochs", "arm", "rate", results.params.selection_metric, results.params.headline_rule, "chosen"), rows
    )


def _starts(results: ComparisonResults) -> CsvTable:
    """Return each loss and its gradient at the trunk's output before the first step; they should be equal."""
    first = [run for run in results.scored_runs if run.epochs == min(results.params.epochs)]
    rows = [(run.arm, run.seed, name, value) for run in first for name, value in sorted(run.start.items())]
    return CsvTable(("arm", "seed", "name", "value"), rows)
