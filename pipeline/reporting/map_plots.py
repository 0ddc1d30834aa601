"""Plots without axes: two-dimensional maps and correlation matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pipeline.reporting.svg import SvgFigure, axes, render_svg

COORDINATES = 64
"""Number of coordinates shown of a correlation matrix; more would not be visible."""


@dataclass(frozen=True)
class MapPoint:
    """Position of an image or a text on a map."""

    is_image: bool
    x: float
    y: float


def flat_map(title: str, places: Sequence[MapPoint], color: str) -> SvgFigure:
    """Draw images as filled and texts as hollow points."""
    panel = axes(190, 190, left=6, right=6, bottom=6)  # five fit side by side
    for is_image in (False, True):
        own = [place for place in places if place.is_image is is_image]
        face = color if is_image else "none"
        panel.scatter([p.x for p in own], [p.y for p in own], s=9, facecolors=face, edgecolors=color, linewidths=0.8)
    panel.set(xticks=[], yticks=[])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return render_svg(panel, title, f"{title}: {sum(p.is_image for p in places)} images and as many captions.")


def correlations(title: str, rows: Float[np.ndarray, "n d"]) -> SvgFigure:
    """Draw the correlations of the first coordinates, from −1 (blue) over 0 (transparent) to 1 (red)."""
    correlation: Float[np.ndarray, "k k"] = np.asarray(np.corrcoef(rows[:, :COORDINATES].astype(np.float64).T))
    strength = np.clip(np.abs(correlation), 0, 1)
    hue = np.where(correlation[..., None] > 0, [0.84, 0.37, 0.0], [0.0, 0.45, 0.7])
    panel = axes(220, 220, left=6, right=6, bottom=6)
    panel.imshow(np.concatenate([hue, strength[..., None]], axis=2), interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    off = np.abs(correlation[np.triu_indices(len(correlation), 1)]).mean()
    return render_svg(panel, title, f"{title}: the mean size of a correlation off the diagonal is {off:.3f}.")
