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


def domain_figures(told: DomainResults) -> dict[str, str]:
    """Draw, for each budget, all arms on all domains, and for each domain the errors of every arm."""
    colors = palette({name: name for name in told.params.targets}, [told.params.student])
    found = {}
    for epochs in sorted(told.params.epochs):
        found[f"domains-{epochs}"] = _ends(told, epochs, colors)
        for domain in told.domains:
            found[f"mistakes-{domain}-{epochs}"] = _mistakes(told, epochs, domain)
    return found


def _ends(told: DomainResults, epochs: int, colors: Palette) -> str:
    arms, places = told.params.targets, [*told.domains, "mean"]
    left, row = name_margin(places, 60), 12 * len(arms) + 16
    made = axes(430 + left, 60 + row * len(places), left=left, right=name_margin(arms, 90), bottom=36)
    made.grid(axis="y", visible=False)
    made.grid(axis="x")
    for place, name in enumerate(places):
        for number, arm in enumerate(arms):
            mean, asked = name == "mean", (arm, epochs, told.headline)
            end = told.mean(*asked) if mean else told.end(*asked, name)
            _dot(made, end, place * row + 12 * number, colors.color(arm))
            if mean:
                made.annotate(arm, (1.02, place * row + 12 * number), xycoords=("axes fraction", "data"), va="center",
                              color=colors.color(arm))  # fmt: skip
        if name in told.teacher:
            teacher = told.teacher[name][f"teacher {told.params.score}"]
            made.plot([teacher] * 2, [place * row - 8, (place + 1) * row - 20], color=MUTED, linewidth=1)
    middles = [place * row + 6 * (len(arms) - 1) for place in range(len(places))]
    made.set(ylim=(row * len(places) - 12, -12), yticks=middles, xlabel=f"{told.headline}; line: the teacher")
    made.set_yticklabels(places)
    made.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    means = ", ".join(f"{arm} {told.mean(arm, epochs, told.headline).mean:.3f}" for arm in arms)
    title = f"Accuracy on each held-out domain, {epochs} epochs"
    return standalone_svg(render_svg(made, title, f"{title}. Mean over the domains: {means}."))


def _dot(made: Axes, end: Interval, y: float, color: str) -> None:
    if end.pairs:
        if end.pairs > 1:
            made.plot([end.low, end.high], [y, y], color=color, linewidth=1.4)
        made.plot([end.mean], [y], color=color, marker="o", markersize=5)


def _mistakes(told: DomainResults, epochs: int, domain: str) -> str:
    """Draw the images of a domain that most students of an arm misclassified, one row per arm, with the predictions."""
    arms = told.params.targets
    left, high = name_margin(arms, 80), TILE + TEXT
    made = axes(left + SHOWN * (TILE + GAP) + 12, high * len(arms) + 20, left=left, right=12, bottom=10)
    made.set_axis_off()
    made.set(xlim=(0, SHOWN * (TILE + GAP)), ylim=(high * len(arms), 0))
    for row, arm in enumerate(arms):
        found = told.mistakes(arm, epochs, domain, SHOWN)
        made.annotate(arm, (-8, high * row + TILE / 2), ha="right", va="center", annotation_clip=False)
        for column, (mistake, image) in enumerate(zip(found, _images(told, domain, found), strict=True)):
            x, y = column * (TILE + GAP), high * row
            made.imshow(image, extent=(x, x + TILE, y + TILE, y), aspect="auto", interpolation="nearest")
            said = f"{mistake.called}\n{mistake.share:.0%} of {mistake.true}"
            made.text(x + TILE / 2, y + TILE + 2, said, ha="center", va="top", fontsize=7)
    made.set(xlim=(0, SHOWN * (TILE + GAP)), ylim=(high * len(arms), 0))
    title = f"Misclassified images of {domain}, {epochs} epochs"
    said = "; ".join(
        f"{arm}: {', '.join(f'{m.true} called {m.called}' for m in told.mistakes(arm, epochs, domain, SHOWN))}"
        for arm in arms
    )
    return standalone_svg(render_svg(made, title, f"{title}. {said}."))


def _images(told: DomainResults, domain: str, found: Sequence[Mistake]) -> list[UInt8[np.ndarray, "s s 3"]]:
    """Return the images as the students' input."""
    evaluator = told.folds[domain]
    images, starts = [], np.cumsum([0, *(len(rows.rows) for rows in evaluator.fold.test)])
    for mistake in found:
        part = int(np.searchsorted(starts, mistake.number, side="right")) - 1
        number = np.array([mistake.number - starts[part]])
        images.append(evaluator.fold.test[part].center(number, evaluator.size)[0])
    return images
