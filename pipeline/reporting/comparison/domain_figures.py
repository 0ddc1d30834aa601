"""Figures of a comparison over domains: each arm on each domain, and misclassified images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pipeline.comparison.domain_results import DomainResults, Mistake
from pipeline.comparison.statistics import Interval
from pipeline.reporting.comparison.plots import standalone_svg
from pipeline.reporting.palette import MUTED, Palette, palette
from pipeline.reporting.svg import axes, name_margin, render_svg

SHOWN = 8
"""Number of misclassified images shown per arm."""
TILE, GAP, TEXT = 56, 8, 26
"""Sizes in pixels: an image, the gap between two, and the text below one."""


def domain_figures(results: DomainResults) -> dict[str, str]:
    """Draw, for each budget, all arms on all domains, and for each domain the errors of every arm."""
    colors = palette({name: name for name in results.params.targets}, [results.params.student])
    figures = {}
    for epochs in sorted(results.params.epochs):
        figures[f"domains-{epochs}"] = _ends(results, epochs, colors)
        for domain in results.domains:
            figures[f"mistakes-{domain}-{epochs}"] = _mistakes(results, epochs, domain)
    return figures


def _ends(results: DomainResults, epochs: int, colors: Palette) -> str:
    arms, places = results.params.targets, [*results.domains, "mean"]
    left, row = name_margin(places, 60), 12 * len(arms) + 16
    panel = axes(430 + left, 60 + row * len(places), left=left, right=name_margin(arms, 90), bottom=36)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x")
    for place, name in enumerate(places):
        for number, arm in enumerate(arms):
            mean, selection = name == "mean", (arm, epochs, results.headline)
            end = results.mean(*selection) if mean else results.end(*selection, name)
            _dot(panel, end, place * row + 12 * number, colors.color(arm))
            if mean:
                panel.annotate(arm, (1.02, place * row + 12 * number), xycoords=("axes fraction", "data"), va="center",
                              color=colors.color(arm))  # fmt: skip
        if name in results.teacher:
            teacher = results.teacher[name][f"teacher {results.params.score}"]
            panel.plot([teacher] * 2, [place * row - 8, (place + 1) * row - 20], color=MUTED, linewidth=1)
    middles = [place * row + 6 * (len(arms) - 1) for place in range(len(places))]
    panel.set(ylim=(row * len(places) - 12, -12), yticks=middles, xlabel=f"{results.headline}; line: the teacher")
    panel.set_yticklabels(places)
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    means = ", ".join(f"{arm} {results.mean(arm, epochs, results.headline).mean:.3f}" for arm in arms)
    title = f"Accuracy on each held-out domain, {epochs} epochs"
    return standalone_svg(render_svg(panel, title, f"{title}. Mean over the domains: {means}."))


def _dot(panel: Axes, end: Interval, y: float, color: str) -> None:
    if end.pairs:
        if end.pairs > 1:
            panel.plot([end.low, end.high], [y, y], color=color, linewidth=1.4)
        panel.plot([end.mean], [y], color=color, marker="o", markersize=5)


def _mistakes(results: DomainResults, epochs: int, domain: str) -> str:
    """Draw the images of a domain that most students of an arm misclassified, one row per arm, with the predictions."""
    arms = results.params.targets
    left, high = name_margin(arms, 80), TILE + TEXT
    panel = axes(left + SHOWN * (TILE + GAP) + 12, high * len(arms) + 20, left=left, right=12, bottom=10)
    panel.set_axis_off()
    panel.set(xlim=(0, SHOWN * (TILE + GAP)), ylim=(high * len(arms), 0))
    for row, arm in enumerate(arms):
        mistakes = results.mistakes(arm, epochs, domain, SHOWN)
        panel.annotate(arm, (-8, high * row + TILE / 2), ha="right", va="center", annotation_clip=False)
        for column, (mistake, image) in enumerate(zip(mistakes, _images(results, domain, mistakes), strict=True)):
            x, y = column * (TILE + GAP), high * row
            panel.imshow(image, extent=(x, x + TILE, y + TILE, y), aspect="auto", interpolation="nearest")
            label = f"{mistake.called}\n{mistake.share:.0%} of {mistake.true}"
            panel.text(x + TILE / 2, y + TILE + 2, label, ha="center", va="top", fontsize=7)
    panel.set(xlim=(0, SHOWN * (TILE + GAP)), ylim=(high * len(arms), 0))
    title = f"Misclassified images of {domain}, {epochs} epochs"
    description = "; ".join(
        f"{arm}: {', '.join(f'{m.true} called {m.called}' for m in results.mistakes(arm, epochs, domain, SHOWN))}"
        for arm in arms
    )
    return standalone_svg(render_svg(panel, title, f"{title}. {description}."))


def _images(results: DomainResults, domain: str, mistakes: Sequence[Mistake]) -> list[UInt8[np.ndarray, "s s 3"]]:
    """Return the images as the students' input."""
    evaluator = results.folds[domain]
    images, starts = [], np.cumsum([0, *(len(rows.rows) for rows in evaluator.fold.test)])
    for mistake in mistakes:
        part = int(np.searchsorted(starts, mistake.number, side="right")) - 1
        number = np.array([mistake.number - starts[part]])
        images.append(evaluator.fold.test[part].center(number, evaluator.size)[0])
    return images
