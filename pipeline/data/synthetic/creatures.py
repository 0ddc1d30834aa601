"""Drawings of animals and plants: one function per kind, back to front."""

from __future__ import annotations

import math

from pipeline.data.synthetic.shapes import Drawing, Outline, blob, box, drawing, mirrored, oval, poly, stroke


def cat() -> Drawing:
    """Draw a sitting cat from the front."""
    ear, inner = poly((-0.55, -0.4), (-0.5, -1.0), (-0.08, -0.68)), poly((-0.45, -0.55), (-0.44, -0.84), (-0.2, -0.68))
    whisker = stroke(0.035, (-0.22, -0.2), (-0.66, -0.26)), stroke(0.035, (-0.22, -0.14), (-0.64, -0.08))
    return drawing(
        ("body", stroke(0.2, (0.3, 0.85), (0.8, 0.8), (0.88, 0.4), (0.72, 0.1))),
        ("body", oval(0, 0.45, 0.48, 0.54)),
        ("trim", oval(0, 0.5, 0.22, 0.36)),
        ("body", ear),
        ("body", mirrored(ear)),
        ("pink", inner),
        ("pink", mirrored(inner)),
        ("body", oval(0, -0.32, 0.56, 0.45)),
        ("white", oval(-0.22, -0.4, 0.12, 0.15)),
        ("white", oval(0.22, -0.4, 0.12, 0.15)),
        ("ink", oval(-0.22, -0.38, 0.06, 0.12)),
        ("ink", oval(0.22, -0.38, 0.06, 0.12)),
        ("pink", poly((-0.09, -0.22), (0.09, -0.22), (0, -0.1))),
        *(("ink", w) for w in whisker),
        *(("ink", mirrored(w)) for w in whisker),
        ("body", oval(-0.2, 0.92, 0.2, 0.1)),
        ("body", oval(0.2, 0.92, 0.2, 0.1)),
    )


def dog() -> Drawing:
    """Draw a dog from the side, its tail up."""
    return drawing(
        ("body", stroke(0.15, (0.65, 0.1), (0.85, -0.1), (0.9, -0.4))),
        *(("body", box(x, 0.3, x + 0.2, 0.95, 0.08)) for x in (-0.42, -0.15, 0.28, 0.54)),
        ("body", oval(0.15, 0.18, 0.62, 0.32)),
        ("body", stroke(0.34, (-0.3, 0.1), (-0.5, -0.3))),
        ("trim", stroke(0.1, (-0.62, 0.0), (-0.28, -0.02))),
        ("body", oval(-0.5, -0.4, 0.34, 0.3)),
        ("body", oval(-0.8, -0.3, 0.22, 0.16)),
        ("ink", oval(-0.98, -0.36, 0.1, 0.09)),
        ("ink", oval(-0.56, -0.48, 0.06, 0.08)),
        ("trim", blob((-0.4, -0.66), (-0.18, -0.5), (-0.16, -0.05), (-0.34, -0.1))),
    )


def fish() -> Drawing:
    """Draw a fish swimming to the left."""
    return drawing(
        ("trim", poly((0.45, 0), (0.95, -0.5), (0.82, 0), (0.95, 0.5))),
        ("trim", blob((-0.2, -0.4), (0.1, -0.75), (0.4, -0.6), (0.35, -0.2))),
        ("trim", blob((-0.1, 0.35), (0.1, 0.72), (0.3, 0.65), (0.25, 0.25))),
        ("body", blob((-0.95, 0), (-0.5, -0.42), (0.05, -0.45), (0.6, 0), (0.05, 0.45), (-0.5, 0.42))),
        ("trim", blob((-0.05, -0.05), (0.3, -0.16), (0.3, 0.2))),
        ("white", oval(-0.58, -0.12, 0.15, 0.15)),
        ("ink", oval(-0.61, -0.12, 0.08, 0.08)),
        ("ink", stroke(0.05, (-0.88, 0.1), (-0.7, 0.18))),
    )


def bird() -> Drawing:
    """Draw a round bird that looks to the left."""
    return drawing(
        ("limb", stroke(0.06, (-0.08, 0.6), (-0.12, 0.95))),
        ("limb", stroke(0.06, (0.2, 0.6), (0.18, 0.95))),
        ("trim", poly((0.4, 0.2), (0.98, 0.0), (0.95, 0.32), (0.5, 0.5))),
        ("glow", poly((-0.6, -0.5), (-0.99, -0.3), (-0.58, -0.22))),
        ("body", blob((-0.72, -0.4), (-0.4, -0.78), (-0.05, -0.5), (0.55, 0.05), (0.5, 0.5), (0, 0.7), (-0.5, 0.4))),
        ("white", blob((-0.5, 0.1), (-0.2, 0.2), (0.1, 0.62), (-0.3, 0.48))),
        ("trim", blob((-0.15, -0.1), (0.3, 0.0), (0.68, 0.32), (0.2, 0.42))),
        ("white", oval(-0.42, -0.45, 0.12, 0.12)),
        ("ink", oval(-0.45, -0.45, 0.07, 0.07)),
    )


def rabbit() -> Drawing:
    """Draw a rabbit with long ears."""
    ear, inner = oval(-0.2, -0.66, 0.13, 0.36, -8), oval(-0.2, -0.64, 0.06, 0.26, -8)
    return drawing(
        ("white", oval(0.52, 0.72, 0.17, 0.17)),
        ("body", oval(0, 0.55, 0.5, 0.42)),
        ("body", ear),
        ("body", mirrored(ear)),
        ("pink", inner),
        ("pink", mirrored(inner)),
        ("body", oval(0, -0.08, 0.4, 0.36)),
        ("white", oval(0, 0.6, 0.26, 0.26)),
        ("ink", oval(-0.17, -0.14, 0.06, 0.08)),
        ("ink", oval(0.17, -0.14, 0.06, 0.08)),
        ("white", oval(-0.1, 0.1, 0.13, 0.1)),
        ("white", oval(0.1, 0.1, 0.13, 0.1)),
        ("pink", oval(0, 0.02, 0.07, 0.05)),
        ("body", oval(-0.3, 0.9, 0.24, 0.1)),
        ("body", oval(0.3, 0.9, 0.24, 0.1)),
    )


def butterfly() -> Drawing:
    """Draw a butterfly with open wings."""
    upper = blob((-0.06, -0.1), (-0.35, -0.75), (-0.9, -0.8), (-0.92, -0.25), (-0.4, 0.08))
    lower = blob((-0.06, 0.05), (-0.55, 0.08), (-0.8, 0.45), (-0.5, 0.85), (-0.15, 0.5))
    spots = oval(-0.62, -0.48, 0.17, 0.16), oval(-0.46, 0.48, 0.13, 0.14)
    feeler = stroke(0.05, (-0.04, -0.5), (-0.12, -0.75), (-0.26, -0.88))
    return drawing(
        *(("body", side(wing)) for wing in (lower, upper) for side in (mirrored, _same)),
        *(("trim", side(spot)) for spot in spots for side in (mirrored, _same)),
        ("limb", feeler),
        ("limb", mirrored(feeler)),
        ("limb", oval(0, 0.05, 0.09, 0.58)),
        ("limb", oval(0, -0.48, 0.11, 0.11)),
    )


def snail() -> Drawing:
    """Draw a snail with its house."""
    return drawing(
        ("cream", stroke(0.06, (-0.72, 0.2), (-0.9, -0.22))),
        ("cream", stroke(0.06, (-0.6, 0.2), (-0.6, -0.26))),
        ("cream", oval(-0.9, -0.24, 0.07, 0.07)),
        ("cream", oval(-0.6, -0.28, 0.07, 0.07)),
        ("cream", blob((-0.9, 0.3), (-0.6, 0.1), (-0.35, 0.55), (0.5, 0.6), (0.98, 0.9), (0, 0.95), (-0.6, 0.88))),
        ("body", oval(0.15, 0.12, 0.6, 0.6)),
        (
            "trim",
            stroke(
                0.1,
                (0.62, 0.3),
                (0.35, 0.52),
                (-0.1, 0.42),
                (-0.22, 0.0),
                (0.1, -0.24),
                (0.42, -0.02),
                (0.32, 0.24),
                (0.08, 0.18),
                (0.1, 0.04),
            ),
        ),
        ("ink", oval(-0.72, 0.42, 0.05, 0.05)),
    )


def flower() -> Drawing:
    """Draw a flower with six petals."""
    return drawing(
        ("leaf", stroke(0.1, (0, 0.0), (0.03, 0.5), (0, 0.98))),
        ("leaf", blob((0.02, 0.8), (0.3, 0.45), (0.6, 0.45), (0.4, 0.75))),
        ("leaf", blob((-0.02, 0.9), (-0.3, 0.58), (-0.58, 0.6), (-0.36, 0.88))),
        *(("body", _petal(degrees)) for degrees in range(0, 360, 60)),
        ("glow", oval(0, -0.35, 0.2, 0.2)),
    )


def tree() -> Drawing:
    """Draw a tree with a round crown."""
    return drawing(
        ("wood", poly((-0.13, 0.2), (0.13, 0.2), (0.2, 0.98), (-0.2, 0.98))),
        (
            "body",
            blob(
                (-0.75, 0.1),
                (-0.72, -0.35),
                (-0.4, -0.6),
                (-0.1, -0.95),
                (0.35, -0.8),
                (0.55, -0.45),
                (0.82, -0.2),
                (0.7, 0.2),
                (0.3, 0.3),
                (-0.1, 0.38),
                (-0.45, 0.32),
            ),
        ),
        *(("trim", oval(x, y, 0.11, 0.11)) for x, y in ((-0.3, -0.2), (0.15, -0.5), (0.4, 0.0))),
    )


def _petal(degrees: float) -> Outline:
    angle = math.radians(degrees)
    return oval(0.4 * math.sin(angle), -0.35 - 0.4 * math.cos(angle), 0.19, 0.26, degrees)


def _same(outline: Outline) -> Outline:
    return outline
