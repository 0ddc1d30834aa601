"""Tables and curves of the comparison on a frozen trunk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.frozen_arms import FAMILIES
from cache.atomic import write_text
from pipeline.comparison.contrasts import EndContrast, RunResult, best_learning_rates, end_contrasts, scored_runs
from pipeline.comparison.statistics import detectable, paired_t_interval
from pipeline.reporting.comparison.plots import IntervalCurve, learning_curves, standalone_svg
from pipeline.reporting.palette import palette

CHANCE = 0.1
RECALL = "recall clip"
MARGIN = 0.01
"""Final values that differ by less are equivalent."""
DRAWN = ("raw", "scale", "soft-zca", "zca", "center cosine", "zca cosine")
"""`center` has the very curve of `raw`."""


def print_report(runs: Sequence[RunResult], out: Path) -> None:
    """Print a table for each budget and question, and draw the curves of the main arms."""
    rates = best_learning_rates(runs, RECALL, 0)
    finals = scored_runs(runs, rates, 0)
    for epochs in sorted({run.epochs for run in finals}):
        for question, family in FAMILIES.items():
            rows = [run for run in finals if run.epochs == epochs and run.arm in family.arms]
            if rows:
                print("\n".join(["", f"{epochs:g} epochs, {question}", "", *_table(rows, family.references)]))
        write_text(out / f"curves-{epochs:g}.svg", draw_curves(finals, epochs))


def _table(runs: Sequence[RunResult], references: Sequence[str]) -> list[str]:
    """Return the lines of a table: mean and interval of each arm, and its differences from the references."""
    against = [(name, metric) for name in references for metric in ("clip", RECALL)]
    heads = ["arm", "rate", "seeds", "`clip`", "`whitened`", "R@10", "R²"]
    heads += [f"{'R@10' if metric == RECALL else '`clip`'} minus {name}" for name, metric in against]
    differences = [{end.arm: end for end in end_contrasts(runs, name, metric, MARGIN)} for name, metric in against]
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}
    rows = [_row(arm, own, [ends.get(arm) for ends in differences]) for arm, own in by_arm.items() if len(own) > 1]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]


def draw_curves(runs: Sequence[RunResult], epochs: float) -> str:
    """Draw mean accuracy over epochs with its interval over seeds, for the main arms."""
    bands = []
    for arm in DRAWN:
        rows = [run for run in runs if (run.arm, run.epochs) == (arm, epochs)]
        if len(rows) > 1:
            points = [paired_t_interval(values) for values in np.array([run.curves["clip"] for run in rows]).T]
            ends = ([p.mean for p in points], [p.low for p in points], [p.high for p in points])
            bands.append(IntervalCurve(arm, rows[0].steps, *ends))
    colors = palette({name: name.partition(" ")[0] for name in DRAWN}, ["student"])
    return standalone_svg(learning_curves(f"Zero-shot top-1, {epochs:g} epochs", bands, colors, chance=CHANCE))


def _row(arm: str, runs: Sequence[RunResult], against: Sequence[EndContrast | None]) -> str:
    cells = [arm, f"{runs[0].learning_rate:.2g}", str(len(runs))]
    cells += [_mean([100 * run.final[name] for run in runs], 1) for name in ("clip", "whitened", RECALL)]
    cells.append(_mean([run.final["r2"] for run in runs], 2))
    return f"| {' | '.join([*cells, *(_difference(end) for end in against)])} |"


def _mean(values: Sequence[float], digits: int) -> str:
    interval = paired_t_interval(np.array(values))
    return f"{interval.mean:.{digits}f} ± {interval.high - interval.mean:.{digits}f}"


def _difference(contrast: EndContrast | None) -> str:
    """Return the difference with its interval; where it is open, with the one that 4 of 5 such runs would show."""
    if contrast is None:
        return "–"
    end = contrast.final
    text = f"{100 * end.mean:+.1f} [{100 * end.low:+.1f}, {100 * end.high:+.1f}]"
    if contrast.equivalence_p < 0.05:
        return f"{text}, equal"
    if end.p >= 0.05:
        return f"{text}, open (power for {detectable(100 * contrast.paired_sd, end.pairs):.1f})"
    return text
