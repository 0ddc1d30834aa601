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


def audit_figures(audit: AuditResult) -> dict[str, SvgFigure]:
    """Return the plots by file name."""
    colors = palette({space.name: space.method for space in audit.spaces}, ())
    figures = {"spectra": spectrum("Variance along the axes of the teacher's embeddings", audit.spectra, {})}
    if len(audit.correlation):
        figures["correlation"] = _correlation(audit)
    for column in audit.ceiling:
        if any(IN_SPACE in space.scores[column] for space in audit.spaces):
            figures[f"ceilings-{column}"] = _ceilings(audit, column, colors)
    return figures


def write_pictures(audit: AuditResult, folder: Path) -> list[Path]:
    """Write each plot as a standalone SVG with a light and a dark mode."""
    style = f"<style>:root{{--muted:#767676}}svg{{color:#1a1a1a}}{stylesheet()}"
    style += "@media(prefers-color-scheme:dark){:root{--muted:#9a9a9a}svg{color:#e8e8e8}}</style>"
    paths = []
    for name, figure in audit_figures(audit).items():
        head, rest = figure.svg.split(">", 1)
        head = head.replace("<svg ", f"<svg {NAMESPACES} ")
        write_text(folder / f"{name}.svg", f"{head}>{style}{rest}")
        paths.append(folder / f"{name}.svg")
    return paths


def _correlation(audit: AuditResult) -> SvgFigure:
    """Draw the correlation of images and texts axis by axis, smoothed over a tenth of the rank."""
    ranks = np.arange(1, len(audit.correlation) + 1)
    smooth = [audit.correlation[max(0, k - 1 - k // 10) : k + k // 10].mean() for k in ranks]
    panel = axes()
    panel.semilogx(ranks, smooth, color=INK)
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.set(ylim=(min(-0.05, *smooth), 1), xlabel="rank of the axis", ylabel="correlation")
    panel.xaxis.set_minor_formatter(NullFormatter())
    title = "Correlation of images and texts"
    return render_svg(panel, title, f"{title}: from {smooth[0]:.2f} on the first axis to {smooth[-1]:.2f} on the last.")


def _ceilings(audit: AuditResult, column: str, colors: Palette) -> SvgFigure:
    """Draw the teacher's score in each space, between chance and its score by `clip`."""
    spaces = [space for space in audit.spaces if IN_SPACE in space.scores[column]]
    values = [space.scores[column][IN_SPACE] for space in spaces]
    left = name_margin([space.name for space in spaces], 100)
    panel = axes(240 + left, 62 + 20 * len(spaces), left=left, right=24, bottom=28)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x")
    panel.barh(range(len(spaces)), values, height=0.62, color=[colors.color(space.name) for space in spaces])
    top = 1.0 if max(values) > 0.5 else 1.15 * max(*values, audit.ceiling[column]["clip"])
    names = [space.name for space in spaces]
    panel.set(xlim=(0, top), ylim=(len(spaces) - 0.4, -0.9), yticks=range(len(spaces)), yticklabels=names)
    reference_lines(panel, audit.ceiling[column]["clip"], audit.chance[column])
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0 if top > 0.2 else 1))
    title = f"The teacher scored in each space, on {column}"
    description = ", ".join(f"{name} {value:.1%}" for name, value in zip(names, values, strict=True))
    return render_svg(panel, title, f"{title}: {description}; by clip {audit.ceiling[column]['clip']:.1%}.")
