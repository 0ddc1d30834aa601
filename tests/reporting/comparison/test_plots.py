"""The comparison's panels: what they show of known numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from pipeline.reporting.comparison.plots import (
    IntervalCurve,
    Ratio,
    learning_curves,
    rate_curves,
    ratios,
    standalone_svg,
)
from pipeline.reporting.palette import palette
from pipeline.reporting.plots import Curve
from pipeline.reporting.svg import SvgFigure

COLORS = palette({"raw": "raw", "zca": "zca"}, ["mobilenetv3"])
BANDS = [
    IntervalCurve("raw", (1, 2, 3), (0.1, 0.2, 0.3), (0.05, 0.15, 0.25), (0.15, 0.25, 0.35)),
    IntervalCurve("zca", (1, 2, 3), (0.1, 0.3, 0.4), (0.05, 0.25, 0.35), (0.15, 0.35, 0.45)),
]


def drawn() -> list[SvgFigure]:
    found = [Ratio("raw", 1.0, 0.9, 1.1), Ratio("zca", 2.9, 2.1, 3.8)]
    rates = [Curve("raw", [1e-3, 3e-3, 9e-3], [0.1, 0.3, 0.2]), Curve("zca", [1e-3, 3e-3, 9e-3], [0.2, 0.1, 0.05])]
    return [
        learning_curves("Curves", BANDS, COLORS, chance=0.1, ceiling=0.5),
        rate_curves("Rates", rates, COLORS),
        ratios("Sooner", found, COLORS),
    ]


def text(picture: SvgFigure) -> list[str]:
    root = ET.fromstring(standalone_svg(picture))  # noqa: S314  our own file
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith(("text", "title"))]


def test_each_figure_says_in_words_what_it_shows() -> None:
    curves, rates, sooner = (text(picture)[0] for picture in drawn())
    assert curves == "Curves. At the end: raw 0.3, zca 0.4; the teacher itself: 0.5."
    assert rates == "Rates. The best: raw 0.003, zca 0.001."
    assert sooner == "Sooner: raw 1.00 [0.90, 1.10], zca 2.90 [2.10, 3.80]."


def test_chance_and_a_near_ceiling_are_drawn_and_a_far_one_is_only_told() -> None:
    near = text(drawn()[0])
    far = text(learning_curves("Curves", BANDS, COLORS, chance=0.1, ceiling=0.95))
    assert {"chance", "ceiling"} <= set(near)
    assert "ceiling" not in far
    assert "the teacher itself: 0.95" in far[0]


def test_a_fit_that_starts_far_below_zero_does_not_flatten_the_rest() -> None:
    deep = [IntervalCurve("raw", (1, 2), (-90.0, 0.5), (-99.0, 0.4), (-80.0, 0.6))]
    labels = text(learning_curves("R²", deep, COLORS))
    assert not any("80" in label for label in labels[1:])


@pytest.mark.parametrize("number", range(3))
def test_a_figure_of_its_own_is_whole_and_asks_nobody_for_anything(number: int) -> None:
    svg = standalone_svg(drawn()[number])
    assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314  our own file
    assert "prefers-color-scheme:dark" in svg
    assert "http" not in svg.replace("http://www.w3.org/", "")
    assert standalone_svg(drawn()[number]) == svg
