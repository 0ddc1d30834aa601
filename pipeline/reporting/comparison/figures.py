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


def figures(told: ComparisonResults) -> dict[str, str]:
    """Draw, for each budget, learning curves, R² by band of axes, accuracy over learning rate, and speed-ups."""
    colors = palette({name: name for name in told.params.targets}, [told.params.student])
    found: dict[str, str] = {}
    for epochs in sorted(told.params.epochs):
        found |= {f"{name}-{epochs}": drawn for name, drawn in _figures(told, epochs, colors).items()}
    return found


def _figures(told: ComparisonResults, epochs: int, colors: Palette) -> dict[str, str]:
    metric, chosen, after = told.params.headline_rule, told.params.selection_metric, f"{epochs} epochs"
    curves = learning_curves(
        f"Zero-shot top-1 ({metric}), {after}",
        interval_curves(told, epochs, metric),
        colors,
        chance=told.chance[metric],
        ceiling=told.ceilings[metric],
    )
    found = {"curves": curves, "rates": rate_curves(f"{chosen} over rate, {after}", rates(told, epochs), colors)}
    for number, name in enumerate(axis_band_names(told)):
        fits = interval_curves(told, epochs, name, told.non_control_arms)
        found[f"axes-{number + 1}"] = learning_curves(f"R² of axes {name.split()[-1]}, {after}", fits, colors)
    for reference in told.references:
        if times := speed_ratios(told, epochs, reference):
            found[f"against-{reference}"] = ratios(f"Speed-up over {reference}, {after}", times, colors)
    return {name: standalone_svg(drawn) for name, drawn in found.items()}


def axis_band_names(told: ComparisonResults) -> list[str]:
    """Return the names of the bands of axes, strongest first."""
    names = [name for name in told.scored_runs[0].curves if name.startswith("r2 ") and "-" in name]
    return sorted(names, key=lambda name: int(name.split()[-1].split("-")[0]))


def interval_curves(
    told: ComparisonResults, epochs: int, metric: str, arms: tuple[str, ...] | None = None
) -> list[IntervalCurve]:
    """Return each arm's mean curve over the seeds with its interval."""
    found = []
    for arm in arms or told.params.targets:
        runs = [r for r in told.scored_runs if (r.arm, r.epochs) == (arm, epochs) and metric in r.curves]
        if runs:
            each = [paired_t_interval(values) for values in np.array([r.curves[metric] for r in runs]).T]
            ends = ([i.mean for i in each], [i.low for i in each], [i.high for i in each])
            found.append(IntervalCurve(arm, runs[0].steps, *ends))
    return found


def rates(told: ComparisonResults, epochs: int) -> list[Curve]:
    """Return the tuning score of each learning rate."""
    found = []
    for arm in told.params.targets:
        runs = [r for r in told.runs if (r.arm, r.epochs, r.seed) == (arm, epochs, TUNING_SEED)]
        runs = sorted(runs, key=lambda r: r.learning_rate)
        found.append(Curve(arm, [r.learning_rate for r in runs], [r.final[told.params.selection_metric] for r in runs]))
    return found


def speed_ratios(told: ComparisonResults, epochs: int, reference: str) -> list[Ratio]:
    """Return the speed-ups at the headline's level."""
    found = told.contrasts_with(reference, epochs, told.params.headline_rule, told.params.level_fraction)
    return [Ratio(c.arm, c.speed.ratio, c.speed.low, c.speed.high) for c in found]
