"""Plots of an audit: spectra, correlation of images and texts, and ceilings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import NullFormatter, PercentFormatter

from cache.atomic import write_text
from pipeline.evaluation.audit import IN_SPACE, AuditResult
from pipeline.reporting.palette import INK, Palette, palette, stylesheet
from pipeline.reporting.plots import reference_lines, spectrum
from pipeline.reporting.svg import SvgFigure, axes, name_margin, render_svg

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def audit_figures(found: AuditResult) -> dict[str, SvgFigure]:
    """Return the plots by file name."""
    colors = palette({space.name: space.method for space in found.spaces}, ())
    made = {"spectra": spectrum("Variance along the axes of the teacher's embeddings", found.spectra, {})}
    if len(found.correlation):
        made["correlation"] = _correlation(found)
    for column in found.ceiling:
        if any(IN_SPACE in space.scores[column] for space in found.spaces):
            made[f"ceilings-{column}"] = _ceilings(found, column, colors)
    return made


def write_pictures(found: AuditResult, folder: Path) -> list[Path]:
    """Write each plot as a standalone SVG with a light and a dark mode."""
    style = f"<style>:root{{--muted:#767676}}svg{{color:#1a1a1a}}{stylesheet()}"
    style += "@media(prefers-color-scheme:dark){:root{--muted:#9a9a9a}svg{color:#e8e8e8}}</style>"
    paths = []
    for name, made in audit_figures(found).items():
        head, rest = made.svg.split(">", 1)
        head = head.replace("<svg ", f"<svg {NAMESPACES} ")
        write_text(folder / f"{name}.svg", f"{head}>{style}{rest}")
        paths.append(folder / f"{name}.svg")
    return paths


def _correlation(found: AuditResult) -> SvgFigure:
    """Draw the correlation of images and texts axis by axis, smoothed over a tenth of the rank."""
    ranks = np.arange(1, len(found.correlation) + 1)
    smooth = [found.correlation[max(0, k - 1 - k // 10) : k + k // 10].mean() for k in ranks]
    made = axes()
    made.semilogx(ranks, smooth, color=INK)
    made.axhline(0, color=INK, linewidth=0.8)
    made.set(ylim=(min(-0.05, *smooth), 1), xlabel="rank of the axis", ylabel="correlation")
    made.xaxis.set_minor_formatter(NullFormatter())
    title = "Correlation of images and texts"
    return render_svg(made, title, f"{title}: from {smooth[0]:.2f} on the first axis to {smooth[-1]:.2f} on the last.")


def _ceilings(found: AuditResult, column: str, colors: Palette) -> SvgFigure:
    """Draw the teacher's score in each space, between chance and its score by `clip`."""
    shown = [space for space in found.spaces if IN_SPACE in space.scores[column]]
    values = [space.scores[column][IN_SPACE] for space in shown]
    left = name_margin([space.name for space in shown], 100)
    made = axes(240 + left, 62 + 20 * len(shown), left=left, right=24, bottom=28)
    made.grid(axis="y", visible=False)
    made.grid(axis="x")
    made.barh(range(len(shown)), values, height=0.62, color=[colors.color(space.name) for space in shown])
    top = 1.0 if max(values) > 0.5 else 1.15 * max(*values, found.ceiling[column]["clip"])
    names = [space.name for space in shown]
    made.set(xlim=(0, top), ylim=(len(shown) - 0.4, -0.9), yticks=range(len(shown)), yticklabels=names)
    reference_lines(made, found.ceiling[column]["clip"], found.chance[column])
    made.tick_params(axis="y", length=0)
    made.spines["left"].set_visible(False)
    made.xaxis.set_major_formatter(PercentFormatter(1, decimals=0 if top > 0.2 else 1))
    title = f"The teacher scored in each space, on {column}"
    said = ", ".join(f"{name} {value:.1%}" for name, value in zip(names, values, strict=True))
    return render_svg(made, title, f"{title}: {said}; by clip {found.ceiling[column]['clip']:.1%}.")
