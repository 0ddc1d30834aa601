"""Plots of a comparison: learning curves with intervals, accuracy over learning rate, speed-ups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from pipeline.evaluation.csv_tables import column
from pipeline.reporting.palette import INK, MUTED, Palette, palette, stylesheet
from pipeline.reporting.plots import Curve, curves
from pipeline.reporting.results import ArmResults
from pipeline.reporting.svg import Label, SvgFigure, axes, label_ends, name_margin, render_svg

PAGE = (
    "svg{color:#1b1b1b;--muted:#767676}text{font-family:system-ui,sans-serif!important}"
    "@media(prefers-color-scheme:dark){svg{color:#e8e8e8;--muted:#9a9a9a}}"
)
"""Colors of a standalone figure, which has no page around it."""


@dataclass(frozen=True)
class IntervalCurve:
    """Mean over seeds of one arm's curve, with its interval."""

    target: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Ratio:
    """Speed-up of one arm."""

    target: str
    ratio: float
    low: float
    high: float


def learning_curves(
    title: str,
    bands: Sequence[IntervalCurve],
    colors: Palette,
    *,
    chance: float | None = None,
    ceiling: float | None = None,
) -> SvgFigure:
    """Draw each arm's mean over seeds with its interval, with chance, and the ceiling if it is near."""
    right = name_margin([band.target for band in bands], 84)
    panel = axes(316 + right, 260, right=right)
    for band in bands:
        panel.plot(band.x, band.mean, color=colors.color(band.target))
        panel.fill_between(band.x, band.low, band.high, color=colors.color(band.target), alpha=0.15, linewidth=0)
    highest, lowest = max(max(band.mean) for band in bands), min(min(band.mean) for band in bands)
    lines = {"chance": chance, "ceiling": ceiling if ceiling is not None and ceiling < 1.5 * highest else None}
    for value in lines.values():
        if value is not None:
            panel.axhline(value, color=MUTED, linewidth=1, linestyle=":")
    room = 0.08 * (highest - lowest) + 1e-9
    # R² starts far below zero if the first step was too large; the later values matter.
    bottom = max(lowest if chance is None else min(lowest, chance), -0.25)
    panel.set(xlabel="epoch", ylim=(bottom - room, max(highest, lines["ceiling"] or highest) + room))
    panel.set_xlim(left=0)
    _percent(panel, chance is not None)
    ends = [Label(band.mean[-1], band.target, colors.color(band.target)) for band in bands]
    label_ends(panel, [*ends, *(Label(value, name, MUTED) for name, value in lines.items() if value is not None)])
    description = ", ".join(f"{band.target} {band.mean[-1]:.3g}" for band in bands)
    above = "" if ceiling is None else f"; the teacher itself: {ceiling:.3g}"
    return render_svg(panel, title, f"{title}. At the end: {description}{above}.")


def rate_curves(title: str, lines: Sequence[Curve], colors: Palette) -> SvgFigure:
    """Draw the tuning score of each learning rate, one line per arm, with the best one marked."""
    right = name_margin([curve.target for curve in lines], 84)
    panel = axes(316 + right, 260, right=right)
    for curve in lines:
        panel.semilogx(curve.x, curve.y, color=colors.color(curve.target), linewidth=1.2, marker="o", markersize=3.5)
        best = max(range(len(curve.y)), key=lambda i: curve.y[i])
        panel.plot(curve.x[best], curve.y[best], color=colors.color(curve.target), marker="o", markersize=8)
    panel.set(xlabel="peak learning rate")
    panel.xaxis.set_minor_formatter(NullFormatter())
    _percent(panel, True)
    label_ends(panel, [Label(curve.y[-1], curve.target, colors.color(curve.target)) for curve in lines])
    description = ", ".join(f"{c.target} {c.x[max(range(len(c.y)), key=lambda i: c.y[i])]:g}" for c in lines)
    return render_svg(panel, title, f"{title}. The best: {description}.")


def ratios(title: str, speeds: Sequence[Ratio], colors: Palette) -> SvgFigure:
    """Draw speed-ups on a log axis, one row per arm, with a line at 1 (no difference)."""
    left = name_margin([each.target for each in speeds], 110)
    panel = axes(290 + left, 58 + 26 * len(speeds), left=left, right=24, bottom=36)
    panel.grid(axis="y", visible=False)
    panel.axvline(1, color=INK, linewidth=1)
    for row, each in enumerate(speeds):
        ends = [[each.ratio - each.low], [each.high - each.ratio]]
        panel.errorbar(each.ratio, row, xerr=ends, color=colors.color(each.target), marker="o", elinewidth=1.6)
    panel.set(xscale="log", ylim=(len(speeds) - 0.5, -0.6), yticks=range(len(speeds)), xlabel="speed-up")
    panel.set_yticklabels([each.target for each in speeds])
    low, high = min(0.5, *(each.low for each in speeds)), max(2.0, *(each.high for each in speeds))
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low / 1.3 <= tick <= high * 1.3]
    panel.set(xlim=(max(low / 1.3, 0.05), min(high * 1.3, 50)), xticks=ticks)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    description = ", ".join(f"{each.target} {each.ratio:.2f} [{each.low:.2f}, {each.high:.2f}]" for each in speeds)
    return render_svg(panel, title, f"{title}: {description}.")


def standalone_svg(figure: SvgFigure) -> str:
    """Return a plot as a standalone SVG with a light and a dark mode."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    styled = re.sub(r"(<svg[^>]*>)", rf"\1<style>{stylesheet()}{PAGE}</style>", figure.svg, count=1)
    return styled.replace("<svg ", head, 1) + "\n"


def _percent(panel: Axes, is_percent: bool) -> None:
    if is_percent:
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


CURVES = {
    "zero_shot": "zero-shot top-1 during training",
    "val_nmse": "NMSE on val during training, each run in its own target space",
}
"""Columns of histories by which runs can be compared, in order of preference."""


def draw_runs(runs: Mapping[str, ArmResults]) -> str | None:
    """Return a standalone SVG with one line per run, for the first of `CURVES` that all runs have.

    A run has its target space's color; another one of the same space has a free color. The ceiling and chance are drawn
    if all runs watched the same set. None if the histories share no such column.
    """
    name = next((name for name in CURVES if all(_curve(key, run, name) for key, run in runs.items())), None)
    if name is None or not runs:
        return None
    lines = [curve for key, run in runs.items() if (curve := _curve(key, run, name))]
    colors = palette({key: run.target for key, run in runs.items()}, ())
    watched = {((run.card or {}).get("training") or {}).get("watch") for run in runs.values()}
    numbers = (run.zero_shot(str(split), "clip") for split in watched for run in runs.values() if len(watched) == 1)
    limits = next(filter(None, numbers), None) if name == "zero_shot" else None
    ends = {key: limits[key] for key in ("ceiling", "chance")} if limits else {}
    on = f" on {watched.pop()}" if limits else ""
    return standalone_svg(curves(f"{CURVES[name]}{on}", lines, colors, marker="o", percent=name == "zero_shot", **ends))


def _curve(key: str, run: ArmResults, name: str) -> Curve | None:
    history = run.history
    if history is None or name not in history.columns:
        return None
    pairs = zip(column(history, "epoch"), column(history, name), strict=True)
    points = [(float(epoch), float(value)) for epoch, value in pairs if epoch and value]
    return Curve(key, *map(list, zip(*points, strict=True))) if points else None
