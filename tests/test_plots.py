"""Panels: drawn in the page's colours, labels apart, ends at zero, and the same bytes each time."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.flat import Place, correlations, flat_map
from pipeline.reporting.palette import HUES, INK, palette, stylesheet
from pipeline.reporting.plots import Curve, Dot, Line, axis_fits, curves, dots, quantiles, shares, spectrum
from pipeline.reporting.svg import Picture, moved_apart

COLOURS = palette({"raw": "raw", "zca": "zca", "zca-01": "zca", "gs": "scale"}, ["mobilenetv3", "resnet18"])
FALL = np.arange(1, 65) ** -1.2


def every_panel() -> list[Picture]:
    found = [Dot("mobilenetv3", "raw", 0.4, 0.02), Dot("resnet18", "zca", 0.6, 0.02)]
    lines = [Curve("raw", [1, 2], [0.2, 0.4]), Curve("zca", [1, 2], [0.3, 0.4])]
    return [
        dots("accuracy", found, 0.8, 0.1, COLOURS),
        curves("learning & <more>", lines, COLOURS, marker="o", ceiling=0.8, chance=0.1),
        spectrum("spectrum", {"images": FALL, "texts": FALL**2}, {"floor zca": 0.01}),
        axis_fits("fits", [Curve("zca", range(1, 65), FALL - 0.9)], COLOURS),
        shares("collapse", [Line("teacher", FALL / FALL.sum(), INK)]),
        quantiles("lengths", [1, 2, 3], [1, 2, 4], "expected", "observed"),
        flat_map("t-SNE", [Place(True, 0, 1), Place(False, 1, 0)], INK),
        correlations("correlations", np.random.default_rng(0).normal(size=(30, 8))),
    ]


@pytest.fixture(scope="module")
def panels() -> list[Picture]:
    return every_panel()


def test_every_panel_is_svg_that_says_in_words_what_it_shows(panels: list[Picture]) -> None:
    for panel in panels:
        root = ElementTree.fromstring(panel.svg.replace("xlink:", ""))  # noqa: S314  made a line above
        title = root.find("title")
        assert title is not None
        assert title.text
        assert panel.title in title.text


def test_only_the_page_decides_colours_so_that_a_panel_follows_light_and_dark(panels: list[Picture]) -> None:
    for panel in panels:
        body = re.sub(r'href="data:[^"]*"', "", panel.svg)
        assert set(re.findall(r"#[0-9a-f]{6}\b", body)) <= {"#ffffff", "#000000"}, panel.title
        assert "font-family" not in body


def test_no_two_panels_share_an_id(panels: list[Picture]) -> None:
    ids = [name for panel in panels for name in re.findall(r'\bid="([^"]+)"', panel.svg)]
    assert len(ids) == len(set(ids))


def test_the_same_panel_is_the_same_bytes(panels: list[Picture]) -> None:
    assert [panel.svg for panel in every_panel()] == [panel.svg for panel in panels]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 300), max_size=8))
def test_labels_are_moved_apart_and_no_further_than_they_must(heights: list[float]) -> None:
    heights = sorted(heights)
    moved = moved_apart(heights, 13)
    assert all(b - a >= 13 - 1e-6 for a, b in pairwise(moved))
    assert sum(moved) == pytest.approx(sum(heights))  # each group stays centred
    if all(b - a >= 13 for a, b in pairwise(heights)):
        assert moved == pytest.approx(heights)


def test_each_target_space_has_one_colour_its_method_s_and_no_two_share_one() -> None:
    assert (COLOURS.slots["raw"], COLOURS.slots["zca"], COLOURS.slots["gs"]) == ("raw", "zca", "scale")
    assert len(set(COLOURS.slots.values())) == 4
    assert len(set(COLOURS.markers.values())) == 2


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", HUES)
def test_colours_can_be_read_as_text_on_their_page(name: str) -> None:
    on_white = 1.05 / (luminance(HUES[name].light) + 0.05)
    on_dark = (luminance(HUES[name].dark) + 0.05) / (luminance("#141414") + 0.05)
    assert on_white >= 3.5  # WCAG asks 3 for graphics and large text, 4.5 for small text
    assert on_dark >= 4.5
    assert f"--{name}:{HUES[name].dark}" in stylesheet()
