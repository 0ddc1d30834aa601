from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.synthetic.object_kinds import KINDS, drawing_of
from pipeline.data.synthetic.shapes import blob, box, drawing, mirrored, oval, poly, stroke


def area(outline: np.ndarray) -> float:
    return drawing(("body", outline)).parts[0][3]


def test_areas_are_those_of_geometry() -> None:
    assert area(box(-1, -0.5, 1, 0.5)) == pytest.approx(2.0)
    assert area(box(-1, -1, 1, 1, 0.5)) == pytest.approx(4 - (4 - np.pi) * 0.25, rel=0.01)  # four rounded corners
    assert area(oval(0, 0, 0.5, 0.25, 30)) == pytest.approx(np.pi / 8, rel=0.02)  # 24 corners lose 1.1 %
    assert area(oval(0, 0, 0.5, 0.5, 0, 180, 360)) == pytest.approx(np.pi / 8, rel=0.02)
    assert area(poly((0, 0), (1, 0), (0, 1))) == pytest.approx(0.5)
    assert area(stroke(0.2, (0, 0), (1, 0))) == pytest.approx(0.2 + np.pi * 0.01, rel=0.02)  # round ends


def test_a_smooth_curve_passes_through_its_points() -> None:
    points = np.array([(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)])
    curve = blob(*map(tuple, points))
    assert np.linalg.norm(curve[None] - points[:, None], axis=2).min(axis=1).max() < 1e-12


@pytest.mark.parametrize("turned", [False, True])
def test_growing_moves_every_point_outwards_whichever_way_it_was_drawn(turned: bool) -> None:
    circle = oval(0, 0, 1, 1)[::-1] if turned else oval(0, 0, 1, 1)
    thing = drawing(("body", circle))
    assert np.linalg.norm(thing.points + 0.1 * thing.outward, axis=1) == pytest.approx(1.1, abs=0.002)


def test_mirroring_twice_changes_nothing() -> None:
    outline = oval(0.3, 0.1, 0.2, 0.5, 20)
    assert np.array_equal(mirrored(mirrored(outline)), outline)
    assert not np.array_equal(mirrored(outline), outline)


@pytest.mark.parametrize("kind", KINDS)
def test_every_drawing_fills_its_square_and_keeps_inside(kind: str) -> None:
    points = drawing_of(kind).points
    assert np.abs(points).max() < 1.15
    assert np.ptp(points, axis=0).max() > 1.4
