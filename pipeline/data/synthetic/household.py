"""Drawings of household objects and a house: one function per kind, back to front."""

from __future__ import annotations

import math

from pipeline.data.synthetic.shapes import Drawing, blob, box, drawing, mirrored, oval, poly, stroke


def mug() -> Drawing:
    """Draw a steaming mug."""
    return drawing(
        ("steam", stroke(0.07, (-0.3, -0.55), (-0.18, -0.7), (-0.32, -0.82), (-0.2, -0.97))),
        ("steam", stroke(0.07, (0.08, -0.55), (0.2, -0.7), (0.06, -0.82), (0.18, -0.97))),
        ("body", stroke(0.16, (0.45, -0.15), (0.9, -0.1), (0.88, 0.45), (0.4, 0.55))),
        ("body", box(-0.7, -0.4, 0.5, 0.92, 0.14)),
        ("trim", box(-0.7, 0.2, 0.5, 0.4)),
        ("wood", oval(-0.1, -0.38, 0.52, 0.1)),
    )


def umbrella() -> Drawing:
    """Draw an open umbrella."""
    return drawing(
        ("limb", stroke(0.04, (0, -0.98), (0, -0.7))),
        ("wood", stroke(0.09, (0, -0.2), (0, 0.5), (0.02, 0.85), (0.22, 0.95), (0.38, 0.76))),
        (
            "body",
            blob(
                (0, -0.82),
                (0.62, -0.55),
                (0.95, 0.1),
                (0.65, -0.04),
                (0.33, 0.1),
                (0, -0.04),
                (-0.33, 0.1),
                (-0.65, -0.04),
                (-0.95, 0.1),
                (-0.62, -0.55),
            ),
        ),
        ("trim", blob((0, -0.82), (0.26, -0.5), (0.33, 0.09), (0, -0.04), (-0.33, 0.09), (-0.26, -0.5))),
    )


def lamp() -> Drawing:
    """Draw a table lamp that is on."""
    return drawing(
        ("glow", oval(0, -0.08, 0.5, 0.12)),
        ("wood", box(-0.07, -0.1, 0.07, 0.85)),
        ("trim", oval(0, 0.4, 0.2, 0.22)),
        ("wood", oval(0, 0.98, 0.46, 0.26, 0, 180, 360)),
        ("body", poly((-0.36, -0.95), (0.36, -0.95), (0.74, -0.1), (-0.74, -0.1))),
        ("trim", poly((-0.74, -0.1), (-0.68, -0.24), (0.68, -0.24), (0.74, -0.1))),
    )


def clock() -> Drawing:
    """Draw an alarm clock."""
    bell, foot = oval(-0.5, -0.66, 0.3, 0.24, -40), stroke(0.14, (-0.4, 0.65), (-0.58, 0.93))
    marks = [(0.0, -0.42), (0.42, 0.05), (0.0, 0.52), (-0.42, 0.05)]
    return drawing(
        ("trim", bell),
        ("trim", mirrored(bell)),
        ("limb", foot),
        ("limb", mirrored(foot)),
        ("body", oval(0, 0.05, 0.74, 0.76)),
        ("white", oval(0, 0.05, 0.55, 0.57)),
        *(("limb", oval(x, y, 0.05, 0.05)) for x, y in marks),
        ("limb", stroke(0.08, (0, 0.05), (0.0, -0.3))),
        ("limb", stroke(0.08, (0, 0.05), (0.26, 0.2))),
    )


def chair() -> Drawing:
    """Draw a chair."""
    return drawing(
        ("trim", box(-0.32, 0.2, -0.2, 0.85)),
        ("trim", box(0.3, 0.2, 0.42, 0.85)),
        ("body", box(-0.5, -0.95, 0.34, -0.72, 0.06)),
        ("body", box(-0.5, -0.5, 0.34, -0.3, 0.04)),
        ("body", box(-0.52, -0.95, -0.38, 0.98, 0.04)),
        ("body", box(0.22, -0.95, 0.36, 0.2, 0.04)),
        ("body", poly((-0.52, 0.02), (0.34, 0.02), (0.62, 0.26), (-0.4, 0.26))),
        ("trim", poly((-0.4, 0.26), (0.62, 0.26), (0.62, 0.36), (-0.4, 0.36))),
        ("body", box(0.48, 0.3, 0.62, 0.98, 0.04)),
    )


def key() -> Drawing:
    """Draw a key."""
    ring = [(-0.55 + 0.34 * math.cos(math.radians(a)), 0.34 * math.sin(math.radians(a))) for a in range(0, 356, 25)]
    return drawing(
        ("body", box(-0.25, -0.1, 0.95, 0.1, 0.05)),
        ("body", box(0.56, 0.0, 0.7, 0.36, 0.03)),
        ("body", box(0.8, 0.0, 0.94, 0.3, 0.03)),
        ("body", stroke(0.2, *ring)),
        ("trim", box(-0.22, -0.16, -0.08, 0.16, 0.03)),
    )


def guitar() -> Drawing:
    """Draw a guitar that leans to the right."""
    body = blob(
        (-0.12, 0.0),
        (0.12, 0.0),
        (0.38, 0.1),
        (0.28, 0.36),
        (0.46, 0.68),
        (0.25, 0.97),
        (-0.25, 0.97),
        (-0.46, 0.68),
        (-0.28, 0.36),
        (-0.38, 0.1),
    )
    return drawing(
        ("wood", box(-0.07, -0.8, 0.07, 0.3)),
        ("body", body),
        ("trim", box(-0.13, -1.0, 0.13, -0.72, 0.04)),
        ("ink", oval(0, 0.4, 0.15, 0.15)),
        ("trim", box(-0.2, 0.68, 0.2, 0.76)),
        ("white", stroke(0.03, (0, -0.8), (0, 0.7))),
    )


def house() -> Drawing:
    """Draw a house with a chimney."""
    return drawing(
        ("wood", box(0.4, -0.85, 0.6, -0.3)),
        ("body", box(-0.72, -0.2, 0.72, 0.95)),
        ("trim", poly((-0.95, -0.15), (0, -0.92), (0.95, -0.15))),
        ("wood", box(-0.16, 0.35, 0.18, 0.95, 0.03)),
        ("glow", oval(0.1, 0.66, 0.04, 0.04)),
        ("glass", box(-0.56, 0.1, -0.28, 0.42)),
        ("glass", box(0.32, 0.1, 0.6, 0.42)),
        ("glass", oval(0, -0.42, 0.14, 0.14)),
    )
