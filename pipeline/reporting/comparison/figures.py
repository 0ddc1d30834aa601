"""Figures of a comparison, each a standalone SVG file."""

from __future__ import annotations

import numpy as np

from pipeline.comparison.results import ComparisonResults
from pipeline.comparison.run_store import TUNING_SEED
from pipeline.comparison.statistics import paired_t_interval
from pipeline.reporting.comparison.plots import (
    IntervalCurve,
    Ratio,
    learning_curves,
    rate_curves,
    ratios,
    standalone_svg,
)
from pipeline.reporting.palette import Palette, palette
from pipeline.reporting.plots import Curve


def figures(results: ComparisonResults) -> dict[str, str]:
    """Draw, for each budget, learning curves, R² by band of axes, accuracy over learning rate, and speed-ups."""
    colors = palette({name: name for name in results.params.targets}, [results.params.student])
    svgs: dict[str, str] = {}
    for epochs in sorted(results.params.epochs):
        svgs |= {f"{name}-{epochs}": svg for name, svg in _figures(results, epochs, colors).items()}
    return svgs


def _figures(results: ComparisonResults, epochs: int, colors: Palette) -> dict[str, str]:
    metric, selection_metric, after = results.params.headline_rule, results.params.selection_metric, f"{epochs} epochs"
    curves = learning_curves(
        f"Zero-shot top-1 ({metric}), {after}",
        interval_curves(results, epochs, metric),
        colors,
        chance=results.chance[metric],
        ceiling=None if results.other_ceilings else results.ceilings[metric],  # several teachers have several
    )
    panels = {
        "curves": curves,
        "rates": rate_curves(f"{selection_metric} over rate, {after}", rates(results, epochs), colors),
    }
    for number, name in enumerate(axis_band_names(results)):
        fits = interval_curves(results, epochs, name, results.comparable_arms(results.params.reference, name))
        panels[f"axes-{number + 1}"] = learning_curves(f"R² of axes {name.split()[-1]}, {after}", fits, colors)
    for reference in results.references:
        if times := speed_ratios(results, epochs, reference):
            panels[f"against-{reference}"] = ratios(f"Speed-up over {reference}, {after}", times, colors)
    return {name: standalone_svg(panel) for name, panel in panels.items()}


def axis_band_names(results: ComparisonResults) -> list[str]:
    """Return the names of the bands of axes, strongest first."""
    own = next((run for run in results.scored_runs if run.arm == results.params.reference), results.scored_runs[0])
    names = [name for name in own.curves if name.startswith("r2 ") and "-" in name]
    return sorted(names, key=lambda name: int(name.split()[-1].split("-")[0]))


def interval_curves(
    results: ComparisonResults, epochs: int, metric: str, arms: tuple[str, ...] | None = None
) -> list[IntervalCurve]:
    """Return each arm's mean curve over the seeds with its interval."""
    bands = []
    for arm in arms or results.params.targets:
        runs = [r for r in results.scored_runs if (r.arm, r.epochs) == (arm, epochs) and metric in r.curves]
        if runs:
            each = [paired_t_interval(values) for values in np.array([r.curves[metric] for r in runs]).T]
            ends = ([i.mean for i in each], [i.low for i in each], [i.high for i in each])
            bands.append(IntervalCurve(arm, runs[0].steps, *ends))
    return bands


def rates(results: ComparisonResults, epochs: int) -> list[Curve]:
    """Return the tuning score of each learning rate."""
    curves = []
    for arm in results.params.targets:
        runs = [r for r in results.runs if (r.arm, r.epochs, r.seed) == (arm, epochs, TUNING_SEED)]
        runs = sorted(runs, key=lambda r: r.learning_rate)
        curves.append(
            Curve(arm, [r.learning_rate for r in runs], [r.final[results.params.selection_metric] for r in runs])
        )
    return curves


def speed_ratios(results: ComparisonResults, epochs: int, reference: str) -> list[Ratio]:
    """Return the speed-ups at the headline's level."""
    contrasts = results.contrasts_with(reference, epochs, results.params.headline_rule, results.params.level_fraction)
    return [Ratio(c.arm, c.speed.ratio, c.speed.low, c.speed.high) for c in contrasts]
