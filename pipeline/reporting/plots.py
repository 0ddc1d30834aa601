"""The report's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from pipeline.reporting.palette import INK, MUTED, Palette
from pipeline.reporting.svg import (
    Label,
    SvgFigure,
    axes,
    figure_width,
    label_ends,
    name_margin,
    render_svg,
    space_labels,
    text_width,
)

REFERENCE_PIXELS = 10.5
LEAST = 1e-8
"""Smallest value drawn, relative to the largest, for axes without variance."""


@dataclass(frozen=True)
class Dot:
    """One arm's accuracy, between 0 and 1, and the half width of its interval."""

    student: str
    target: str
    value: float
    half_width: float = 0.0


@dataclass(frozen=True)
class Curve:
    """One line over another quantity."""

    target: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Line:
    """A named line over the axes of a space."""

    name: str
    y: Float[np.ndarray, " d"]
    color: str


def dot_plot(title: str, dots: Sequence[Dot], ceiling: float, chance: float, colors: Palette) -> SvgFigure:
    """Draw accuracies of all arms, one row per target space, between chance and the ceiling."""
    targets = list(dict.fromkeys(dot.target for dot in dots))
    students = list(dict.fromkeys(dot.student for dot in dots))
    left = name_margin(targets, 84)
    panel = axes(256 + left, 62 + 30 * len(targets), left=left, right=24, bottom=28)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x")
    for dot in dots:
        offset = 0.16 * (students.index(dot.student) - (len(students) - 1) / 2)
        row = targets.index(dot.target) + offset
        ends = [[min(dot.half_width, dot.value)], [min(dot.half_width, 1 - dot.value)]]
        panel.errorbar(
            dot.value,
            row,
            xerr=ends,
            color=colors.color(dot.target),
            elinewidth=1.2,
            marker=colors.markers[dot.student],
            markersize=7,
            clip_on=False,
        )
    panel.set(xlim=(0, 1), ylim=(len(targets) - 0.5, -0.9), yticks=range(len(targets)), yticklabels=targets)
    reference_lines(panel, ceiling, chance)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.xaxis.set_major_formatter(PercentFormatter(1))
    description = ", ".join(f"{dot.student} against {dot.target} {dot.value:.1%}" for dot in dots)
    return render_svg(panel, title, f"{title}: {description}; ceiling {ceiling:.1%}, chance {chance:.1%}.")


def curves(
    title: str,
    lines: Sequence[Curve],
    colors: Palette,
    *,
    marker: str,
    ceiling: float | None = None,
    chance: float | None = None,
    percent: bool = True,
) -> SvgFigure:
    """Draw lines over epochs, named at their ends, between chance and the ceiling."""
    panel = named_axes([curve.target for curve in lines])
    for curve in lines:
        panel.plot(curve.x, curve.y, color=colors.color(curve.target), marker=marker, markersize=4)
    top = max([*(y for curve in lines for y in curve.y), ceiling or 0.0])
    panel.set(ylim=(0, top * 1.08), xlabel="epoch")
    panel.set_xlim(left=0)
    references = []
    if ceiling is not None and chance is not None:
        panel.axhline(ceiling, color=INK, linewidth=1)
        panel.axhline(chance, color=MUTED, linewidth=1, linestyle=":")
        references = [Label(ceiling, "ceiling", INK), Label(chance, "chance", MUTED)]
    if percent:
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ends = [Label(curve.y[-1], curve.target, colors.color(curve.target)) for curve in lines]
    label_ends(panel, [*ends, *references])
    description = ", ".join(f"{curve.target} {curve.y[-1]:.3g}" for curve in lines)
    return render_svg(panel, title, f"{title}. At the end: {description}.")


def spectrum(title: str, sides: Mapping[str, Float[np.ndarray, " d"]], floors: Mapping[str, float]) -> SvgFigure:
    """Draw eigenvalues over their rank on log axes, with the floors of the target spaces as lines."""
    panel = named_axes([*sides, *floors])
    for (_, values), style in zip(sides.items(), ("-", (0, (4, 2))), strict=False):
        visible = np.maximum(values, values[0] * LEAST)
        panel.loglog(np.arange(1, len(values) + 1), visible, color=INK, linestyle=style)
    for value in floors.values():
        panel.axhline(value, color=MUTED, linewidth=0.9, linestyle=":")
    panel.set(xlabel="rank of the axis", ylabel="variance")
    panel.yaxis.set_major_locator(LogLocator(numticks=6))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_minor_formatter(NullFormatter())
    ends = [Label(float(max(values[-1], values[0] * LEAST)), side, INK) for side, values in sides.items()]
    label_ends(panel, ends + [Label(value, name, MUTED) for name, value in floors.items()])
    description = ", ".join(f"{side} falls from {values[0]:.2g} to {values[-1]:.2g}" for side, values in sides.items())
    return render_svg(panel, title, f"{title}: {description}.")


LOWEST_R2 = -0.5
"""Lower limit of R² along an axis in plots; axes of very small variance would otherwise compress all others."""


def axis_fits(title: str, fits: Sequence[Curve], colors: Palette) -> SvgFigure:
    """Draw R² along the teacher's axes, largest variance first, clipped at `LOWEST_R2`.

    After the tenth axis a point is the mean of its neighbors in rank, which smooths the line.
    """
    panel = named_axes([curve.target for curve in fits])
    fits = [replace(curve, x=x, y=y) for curve in fits for x, y in [_neighbors(curve)]]
    for curve in fits:
        panel.semilogx(curve.x, np.maximum(curve.y, LOWEST_R2), color=colors.color(curve.target))
    panel.axhline(0, color=MUTED, linewidth=0.9)
    panel.set(ylim=(-0.55, 1.02), xlabel="rank of the axis", ylabel="R²")
    panel.xaxis.set_minor_formatter(NullFormatter())
    ends = [(curve, max(float(curve.y[-1]), LOWEST_R2)) for curve in fits]
    label_ends(panel, [Label(y, curve.target, colors.color(curve.target)) for curve, y in ends])
    return render_svg(panel, title, f"{title}, for {', '.join(curve.target for curve in fits)}.")


def _neighbors(curve: Curve) -> tuple[list[float], list[float]]:
    """Return ranks and values averaged in twelve bins per decade, if a bin has more than one."""
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    step = np.where(x <= 10, x, 10 + np.floor(12 * np.log10(np.maximum(x, 10) / 10)))
    each = [step == value for value in np.unique(step)]
    return [float(x[one].mean()) for one in each], [float(y[one].mean()) for one in each]


def variance_shares(title: str, lines: Sequence[Line]) -> SvgFigure:
    """Draw each model's variance by axis relative to its trace, on log axes."""
    panel = named_axes([line.name for line in lines])
    for line in lines:
        panel.loglog(np.arange(1, len(line.y) + 1), np.maximum(line.y, LEAST), color=line.color)
    panel.set(xlabel="rank of the axis", ylabel="share of variance")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_minor_formatter(NullFormatter())
    label_ends(panel, [Label(max(float(line.y[-1]), LEAST), line.name, line.color) for line in lines])
    description = ", ".join(f"{line.name} holds {line.y[:10].sum():.0%} in ten axes" for line in lines)
    return render_svg(panel, title, f"{title}: {description}.")


def quantiles(title: str, x: Sequence[float], y: Sequence[float], x_label: str, y_label: str) -> SvgFigure:
    """Draw observed over expected quantiles, with the diagonal."""
    panel = axes(240, 230)
    ends = [min(*x, *y), max(*x, *y)]
    panel.plot(ends, ends, color=MUTED, linewidth=1)
    panel.plot(x, y, color=INK, linestyle="none", marker=".", markersize=4)
    panel.set(xlabel=x_label, ylabel=y_label)
    return render_svg(panel, title, f"{title}: expected {x[0]:.1f} to {x[-1]:.1f}, observed {y[0]:.1f} to {y[-1]:.1f}.")


def named_axes(names: Sequence[str]) -> Axes:
    """Return axes with a right margin for the names of lines."""
    right = name_margin(names, 74)
    return axes(266 + right, right=right)


def reference_lines(panel: Axes, ceiling: float, chance: float) -> None:
    """Draw the ceiling as a solid and chance as a dotted line across rows, with labels that do not overlap."""
    panel.axvline(ceiling, color=INK, linewidth=1)
    panel.axvline(chance, color=MUTED, linewidth=1, linestyle=":")
    named = sorted([(ceiling, 1, "ceiling", INK), (chance, 0, "chance", MUTED)])
    centers = [float(panel.transData.transform((value, 0))[0]) for value, *_ in named]
    widths = [text_width(name, REFERENCE_PIXELS) + 6 for *_, name, _ in named]
    places = space_labels(centers, widths, 0, figure_width(panel))
    for (*_, name, color), place in zip(named, places, strict=True):
        where = panel.transAxes.inverted().transform((place, 0))[0]
        panel.text(
            where,
            1.0,
            name,
            va="bottom",
            ha="center",
            color=color,
            fontsize=REFERENCE_PIXELS,
            transform=panel.transAxes,
        )
