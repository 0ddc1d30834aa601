"""Tables and curves of the comparison on a frozen trunk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache.atomic import write_text
from pipeline.comparison.contrasts import Contrast, ContrastSpec, RunResult, best_learning_rates, contrasts, scored_runs
from pipeline.comparison.statistics import detectable, paired_t_interval
from pipeline.reporting.comparison.plots import IntervalCurve, learning_curves, standalone_svg
from pipeline.reporting.palette import palette

CHANCE = 0.1
DRAWN = ("raw", "scale", "soft-zca", "zca")
"""`center` has the very curve of `raw`."""


def print_report(runs: Sequence[RunResult], out: Path) -> None:
    """Print a table for each budget, and draw the curves of the main arms."""
    rates = best_learning_rates(runs, "recall clip", 0)
    finals = scored_runs(runs, rates, 0)
    for epochs in sorted({run.epochs for run in finals}):
        print(f"\n{epochs:g} epochs\n\n| arm | rate | seeds | `clip` | `whitened` | R@10 | R² | to raw | to scale |")
        print("|---|---|---|---|---|---|---|---|---|")
        tables = [_contrasts(finals, epochs, reference) for reference in ("raw", "scale")]
        for arm in dict.fromkeys(run.arm for run in finals):
            rows = [run for run in finals if (run.arm, run.epochs) == (arm, epochs)]
            if len(rows) > 1:
                print(_row(arm, rates[arm, epochs], rows, [table.get(arm) for table in tables]))
        (out / f"curves-{epochs:g}.svg").parent.mkdir(parents=True, exist_ok=True)
        write_text(out / f"curves-{epochs:g}.svg", draw_curves(finals, epochs))


def draw_curves(runs: Sequence[RunResult], epochs: float) -> str:
    """Draw mean accuracy over epochs with its interval over seeds, for the main arms."""
    bands = []
    for arm in DRAWN:
        rows = [run for run in runs if (run.arm, run.epochs) == (arm, epochs)]
        if len(rows) > 1:
            points = [paired_t_interval(values) for values in np.array([run.curves["clip"] for run in rows]).T]
            ends = ([p.mean for p in points], [p.low for p in points], [p.high for p in points])
            bands.append(IntervalCurve(arm, rows[0].steps, *ends))
    colors = palette({name: name for name in DRAWN}, ["student"])
    return standalone_svg(learning_curves(f"Zero-shot top-1, {epochs:g} epochs", bands, colors, chance=CHANCE))


def _contrasts(runs: Sequence[RunResult], epochs: float, reference: str) -> dict[str, Contrast]:
    return {c.arm: c for c in contrasts(runs, epochs, ContrastSpec(reference, "clip", CHANCE))}


def _row(arm: str, rate: float, rows: Sequence[RunResult], against: Sequence[Contrast | None]) -> str:
    cells = [_mean([100 * run.final[name] for run in rows], 1) for name in ("clip", "whitened", "recall clip")]
    cells.append(_mean([run.final["r2"] for run in rows], 2))
    return f"| {arm} | {rate:g} | {len(rows)} | " + " | ".join([*cells, *(_difference(c) for c in against)]) + " |"


def _mean(values: Sequence[float], digits: int) -> str:
    interval = paired_t_interval(np.array(values))
    return f"{interval.mean:.{digits}f} ± {interval.high - interval.mean:.{digits}f}"


def _difference(contrast: Contrast | None) -> str:
    if contrast is None:
        return "–"
    ends = contrast.final
    verdict = "equal" if contrast.equivalence_p < 0.05 else "open" if ends.p >= 0.05 else "sure"
    seen = detectable(100 * contrast.paired_sd, ends.pairs)
    return (
        f"{100 * ends.mean:+.1f} [{100 * ends.low:+.1f}, {100 * ends.high:+.1f}] {verdict}, "
        f"could see {seen:.1f}; ×{contrast.speed.ratio:.1f}"
    )
