"""Outlines of drawings: each shape is one closed polygon in the square [-1, 1]², y downwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Outline = Float[np.ndarray, "n 2"]
Point = tuple[float, float]

MITRE = 1.6
"""Limit of a corner's offset; without it, sharp points would grow spikes."""


@dataclass(frozen=True)
class Drawing:
    """An object: closed shapes from back to front, with concatenated points."""

    points: Outline
    outward: Outline
    """Displacement of each point when its shape grows by one."""
    parts: tuple[tuple[str, int, int, float], ...]
    """Color role, first and last point, and area of each shape."""


def drawing(*parts: tuple[str, Outline]) -> Drawing:
    """Return a drawing from (role, outline) pairs, from back to front."""
    stops = np.cumsum([len(outline) for _, outline in parts]).tolist()
    starts = [0, *stops[:-1]]
    spans = tuple((role, a, b, abs(_area(outline))) for (role, outline), a, b in zip(parts, starts, stops, strict=True))
    outlines = [outline for _, outline in parts]
    return Drawing(np.concatenate(outlines), np.concatenate([_outward(o) for o in outlines]), spans)


def oval(  # noqa: PLR0917  a drawing is a page of numbers; names would hide the picture
    x: float, y: float, rx: float, ry: float, tilt: float = 0, start: float = 0, stop: float = 360
) -> Outline:
    """Return an ellipse, or the part of it between two angles (degrees, clockwise from the right)."""
    angles = np.radians(np.linspace(start, stop, 25)[: 24 if stop - start >= 360 else 25])
    points = np.column_stack([rx * np.cos(angles), ry * np.sin(angles)])
    return np.asarray(_turned(points, tilt) + (x, y))  # noqa: RUF005  an addition, not a tuple


def poly(*points: Point) -> Outline:
    """Return a polygon with straight sides."""
    return np.array(points, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float, r: float = 0.0) -> Outline:
    """Return a rectangle with corners rounded by a radius."""
    if r <= 0:
        return poly((left, top), (right, top), (right, bottom), (left, bottom))
    angles = np.radians(np.linspace(0, 90, 5))
    arc = r * np.column_stack([np.cos(angles), np.sin(angles)])
    corners = (right - r, bottom - r), (left + r, bottom - r), (left + r, top + r), (right - r, top + r)
    return np.concatenate([_turned(arc, 90 * i) + corner for i, corner in enumerate(corners)])


def blob(*points: Point) -> Outline:
    """Return a smooth closed curve through the points (Catmull & Rom, 1974)."""
    return _spline(np.array([points[-1], *points, points[0], points[1]], dtype=np.float64))


def stroke(width: float, *points: Point) -> Outline:
    """Return the polygon around a smooth line of a given width with round ends."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float64)
    line = np.vstack([_spline(knots), knots[-1]]) if len(points) > 2 else knots[1:-1]
    ahead = np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.column_stack([-ahead[:, 1], ahead[:, 0]]) * (width / 2)
    return np.concatenate([line + side, _cap(line[-1], side[-1]), (line - side)[::-1], _cap(line[0], -side[0])])


def mirrored(outline: Outline) -> Outline:
    """Return the outline with left and right exchanged."""
    return outline * (-1.0, 1.0)


def _cap(end: Float[np.ndarray, " 2"], side: Float[np.ndarray, " 2"]) -> Outline:
    return np.array([end + _turned(side[None], -angle)[0] for angle in (45, 90, 135)])


def _spline(knots: Outline, steps: int = 6) -> Outline:
    t = (np.arange(steps) / steps)[:, None]
    a, b, c, d = (knots[i : len(knots) - 3 + i, None] for i in range(4))
    cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return np.asarray(cubic.reshape(-1, 2) / 2)


def _turned(points: Outline, degrees: float) -> Outline:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))


def _area(outline: Outline) -> float:
    after = np.roll(outline, -1, axis=0)
    return float(np.sum(outline[:, 0] * after[:, 1] - after[:, 0] * outline[:, 1]) / 2)


def _outward(outline: Outline) -> Outline:
    side = np.roll(outline, -1, axis=0) - outline
    length = np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)  # a repeated point has no normal
    normal = np.sign(_area(outline)) * np.column_stack([side[:, 1], -side[:, 0]]) / length
    both = normal + np.roll(normal, 1, axis=0)
    return np.asarray(2 * both / np.maximum(np.sum(both**2, axis=1, keepdims=True), 2 / MITRE))
