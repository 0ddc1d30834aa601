"""Convert matplotlib figures to inline SVG with the page's font and colors, in light and dark mode."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from unicodedata import east_asian_width

import matplotlib as mpl
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter
from scipy.optimize import isotonic_regression

from pipeline.project.terminal import printable
from pipeline.reporting.palette import HUES, INK, MUTED

FONT_PIXELS = 11.5
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": FONT_PIXELS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.formatter.useoffset": False,
}
PIXELS_PER_INCH = 72
LABEL_GAP_PIXELS = 13.0
LETTER_EM = 0.56
"""Mean width of a letter of the page's font, in em; East Asian letters are one em wide."""


@dataclass(frozen=True)
class SvgFigure:
    """A drawn panel and its text alternative."""

    title: str
    svg: str
    width: int


@dataclass(frozen=True)
class Label:
    """A name at the end of a line."""

    y: float
    text: str
    color: str


def axes(width: int = 340, height: int = 230, *, left: int = 46, right: int = 12, bottom: int = 40) -> Axes:
    """Return empty axes of a figure of a given size in page pixels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
        box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + 10) / height)
        panel = figure.add_axes(box)
        panel.grid(axis="y")
        panel.set_axisbelow(True)
    return panel


def render_svg(panel: Axes, title: str, description: str) -> SvgFigure:
    """Return the axes' figure as inline SVG.

    Placeholder colors become `currentColor` and the page's variables, and ids get a unique prefix, because all figures
    share one page.
    """
    text, figure = io.StringIO(), _figure(panel)
    _take_literally(figure)
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's fonts are used, not matplotlib's
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = "\n".join(map(printable, text.getvalue().split("\n")))
    body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index("<svg") :], flags=re.DOTALL)
    name = re.sub(r"\W+", "-", title.lower())
    body = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], name), body)
    box = re.search(r'viewBox="[^"]+"', body)
    head = f'<svg {box[0] if box else ""} role="img"><title>{escape(printable(description))}</title>'
    return SvgFigure(title, re.sub(r"<svg[^>]*>", lambda _: head, body, count=1), round(figure.bbox.width))


def label_ends(panel: Axes, labels: Sequence[Label]) -> None:
    """Write names to the right of the axes at the heights of their lines, moved apart if they would overlap."""
    (
        panel.get_xlim(),
        panel.get_ylim(),
    )  # computes the limits, on which heights depend
    order = sorted(labels, key=lambda label: label.y)
    heights = [float(panel.transData.transform((0, label.y))[1]) for label in order]
    box = panel.get_window_extent()
    room = box.y0 - LABEL_GAP_PIXELS / 2, box.y1 + LABEL_GAP_PIXELS / 2
    for label, height in zip(order, space_labels(heights, [LABEL_GAP_PIXELS] * len(order), *room), strict=True):
        where = panel.transAxes.inverted().transform((0, height))[1]
        panel.text(1.02, where, label.text, color=label.color, va="center", transform=panel.transAxes)


def space_labels(centers: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Return ascending centers, moved as little as possible so that labels of given sizes do not overlap.

    argmin Σ (x_i − c_i)² subject to x_{i+1} − x_i ≥ (s_i + s_{i+1})/2 and all labels between `low` and `high`: after
    subtracting the accumulated sizes, an isotonic regression. If there is not enough room, labels start at `low`.
    """
    if not len(centers):
        return []
    half = np.asarray(sizes, float) / 2
    offsets = np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:])])
    fitted = isotonic_regression(np.asarray(centers, float) - offsets).x
    return [float(x) for x in np.maximum(np.minimum(fitted, high - half[-1] - offsets[-1]), low + half[0]) + offsets]


def text_width(text: str, size: float = FONT_PIXELS) -> float:
    """Estimate the width of a text in the page's font, in pixels."""
    return size * sum(1.0 if east_asian_width(letter) in "WF" else LETTER_EM for letter in text)


def name_margin(names: Iterable[str], least: int) -> int:
    """Return the margin for the longest name, at least `least` pixels."""
    return max(least, *(round(text_width(name)) + 14 for name in names))


def figure_width(panel: Axes) -> float:
    """Return the width of the axes' figure in pixels."""
    return float(_figure(panel).bbox.width)


def _figure(panel: Axes) -> Figure:
    return cast("Figure", panel.figure)


def _colors() -> dict[str, str]:
    return {INK: "currentColor", MUTED: "var(--muted)", **{hue.light: f"var(--{name})" for name, hue in HUES.items()}}


def _page_tag(tag: str, name: str) -> str:
    """Return one tag with the page's colors and font, and unique ids; text content is unchanged."""
    for stand_in, color in _colors().items():
        tag = tag.replace(stand_in, color)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", re.sub(r'<g id="[^"]*"', "<g", tag))
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', tag)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", tag)


def _take_literally(figure: Figure) -> None:
    """Make matplotlib show names literally: `$` starts no formula, and a line break no second line.

    Tick labels of log axes, which matplotlib itself writes as formulas, are unchanged.
    """
    ours = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    numbers = [axis for axis in ours if isinstance(axis.get_major_formatter(), LogFormatter)]
    formulas = {id(label) for axis in numbers for label in axis.findobj(Text) if label is not axis.label}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and id(text) not in formulas:
            text.set_parse_math(False)
            if (literal := printable(text.get_text())) != text.get_text():
                text.set_text(literal)
