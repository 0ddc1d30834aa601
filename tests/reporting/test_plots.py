"""Panels: drawn in the page's colours, labels apart, ends at zero, and the same bytes each time."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.project.terminal import printable
from pipeline.reporting.comparison.plots import IntervalCurve, Ratio, learning_curves, ratios, standalone_svg
from pipeline.reporting.map_plots import MapPoint, correlations, flat_map
from pipeline.reporting.palette import HUES, INK, palette, stylesheet
from pipeline.reporting.plots import Curve, Dot, Line, axis_fits, curves, dot_plot, quantiles, spectrum, variance_shares
from pipeline.reporting.svg import Label, SvgFigure, axes, label_ends, render_svg, space_labels, text_width

COLORS = palette({"raw": "raw", "zca": "zca", "zca-01": "zca", "gs": "scale"}, ["mobilenetv3", "resnet18"])
FALL = np.arange(1, 65) ** -1.2


def every_panel() -> list[SvgFigure]:
    found = [Dot("mobilenetv3", "raw", 0.4, 0.02), Dot("resnet18", "zca", 0.6, 0.02)]
    lines = [Curve("raw", [1, 2], [0.2, 0.4]), Curve("zca", [1, 2], [0.3, 0.4])]
    return [
        dot_plot("accuracy", found, 0.8, 0.1, COLORS),
        curves("learning & <more>", lines, COLORS, marker="o", ceiling=0.8, chance=0.1),
        spectrum("spectrum", {"images": FALL, "texts": FALL**2}, {"floor zca": 0.01}),
        axis_fits("fits", [Curve("zca", range(1, 65), (FALL - 0.9).tolist())], COLORS),
        variance_shares("collapse", [Line("teacher", FALL / FALL.sum(), INK)]),
        quantiles("lengths", [1, 2, 3], [1, 2, 4], "expected", "observed"),
        flat_map("t-SNE", [MapPoint(True, 0, 1), MapPoint(False, 1, 0)], INK),
        correlations("correlations", np.random.default_rng(0).normal(size=(30, 8))),
    ]


HOSTILE = [
    "$x$",
    "a$b$c",
    r"$\frac{1}{0}$",
    r"\foo",
    "{",
    "<b>&",
    'id="x"',
    "url(#a) #000001 font-family: x;",
    "a\tb\x00",
    "\x1b[31m",
    "犬",
    "]]>",
    "</svg>",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_drawn_as_the_text_that_it_is(name: str) -> None:
    colors = palette({name: "zca", "raw": "raw"}, ["resnet18"])
    lines = [Curve(name, [1, 2], [0.2, 0.4]), Curve("raw", [1, 2], [0.3, 0.4])]
    drawn = [
        dot_plot(name, [Dot("resnet18", name, 0.4)], 0.8, 0.1, colors),
        curves(name, lines, colors, marker="o"),
        spectrum(name, {name: FALL, "texts": FALL**2}, {name: 0.01}),
        learning_curves(name, [IntervalCurve(name, [1, 2], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5])], colors, chance=0.1),
        ratios(name, [Ratio(name, 2.0, 1.5, 3.0)], colors),
    ]
    for panel in drawn:
        for svg in (panel.svg.replace("xlink:", ""), standalone_svg(panel)):
            texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]  # noqa: S314
            assert printable(name) in texts


def test_the_powers_of_ten_of_log_axes_are_still_set_as_powers() -> None:
    drawn = spectrum("$x$", {"$y$": FALL}, {"$z$": 0.01}).svg
    root = ElementTree.fromstring(drawn.replace("xlink:", ""))  # noqa: S314  made a line above
    texts = ["".join(element.itertext()).split() for element in root.iter("text")]
    assert ["1", "0", "−", "2"] in texts
    assert [parts for parts in texts if "$\\mathdefault" in "".join(parts)] == []


@pytest.fixture(scope="module")
def panels() -> list[SvgFigure]:
    return every_panel()


def test_every_panel_is_svg_that_says_in_words_what_it_shows(panels: list[SvgFigure]) -> None:
    for panel in panels:
        root = ElementTree.fromstring(panel.svg.replace("xlink:", ""))  # noqa: S314  made a line above
        title = root.find("title")
        assert title is not None
        assert title.text
        assert panel.title in title.text


def test_only_the_page_decides_colors_so_that_a_panel_follows_light_and_dark(panels: list[SvgFigure]) -> None:
    for panel in panels:
        body = re.sub(r'href="data:[^"]*"', "", panel.svg)
        assert set(re.findall(r"#[0-9a-f]{6}\b", body)) <= {"#ffffff", "#000000"}, panel.title
        assert "font-family" not in body


def test_no_two_panels_share_an_id(panels: list[SvgFigure]) -> None:
    ids = [name for panel in panels for name in re.findall(r'\bid="([^"]+)"', panel.svg)]
    assert len(ids) == len(set(ids))


def test_the_same_panel_is_the_same_bytes(panels: list[SvgFigure]) -> None:
    assert [panel.svg for panel in every_panel()] == [panel.svg for panel in panels]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 300), st.floats(5, 40)), max_size=7))
def test_labels_are_moved_apart_and_no_further_than_they_must(labels: list[tuple[float, float]]) -> None:
    centers, sizes = sorted(center for center, _ in labels), [size for _, size in labels]
    gaps = [(a + b) / 2 for a, b in pairwise(sizes)]
    moved = space_labels(centers, sizes, -1000, 1000)
    assert all(b - a >= gap - 1e-6 for (a, b), gap in zip(pairwise(moved), gaps, strict=True))
    assert sum(moved) == pytest.approx(sum(centers))  # each group stays centered
    if all(b - a >= gap for (a, b), gap in zip(pairwise(centers), gaps, strict=True)):
        assert moved == pytest.approx(centers)
    inside = space_labels(centers, sizes, 0, 300)
    assert all(b - a >= gap - 1e-6 for (a, b), gap in zip(pairwise(inside), gaps, strict=True))
    assert not inside or (inside[0] >= sizes[0] / 2 - 1e-6 and inside[-1] <= 300 - sizes[-1] / 2 + 1e-6)


WRITTEN = re.compile(r'<text style="font-size: ([\d.]+)px([^"]*)" x="(-?[\d.]+)" y="(-?[\d.]+)"[^>]*>([^<]*)</text>')
STARTS = {"text-anchor: middle": 0.5, "text-anchor: end": 1.0}


def overlapping(drawn: SvgFigure) -> list[tuple[str, str]]:
    """Return every two names of a picture whose boxes meet, letters as wide as they are on average."""
    boxes = []
    for size, style, x, y, name in WRITTEN.findall(drawn.svg):
        width = text_width(name, float(size))
        left = float(x) - width * next((share for anchor, share in STARTS.items() if anchor in style), 0.0)
        boxes.append((name, left, left + width, float(y) - 0.7 * float(size), float(y)))
    return [
        (one[0], other[0])
        for one, other in combinations(boxes, 2)
        if one[1] < other[2] and other[1] < one[2] and one[3] < other[4] and other[3] < one[4]
    ]


@pytest.mark.parametrize(("ceiling", "chance"), [(0.1, 0.1), (0.13, 0.1), (0.02, 0.01), (1.0, 0.98), (0.995, 0.1)])
@pytest.mark.parametrize("arms", [1, 4])
def test_no_name_lies_on_another_for_teachers_near_chance_near_all_and_for_one_arm(
    ceiling: float, chance: float, arms: int
) -> None:
    targets = ["raw", "zca", "zca-01", "gs"][:arms]
    seen = [Dot("mobilenetv3", target, ceiling - 0.01, 0.02) for target in targets]
    drawn = dot_plot("accuracy", seen, ceiling, chance, COLORS)
    assert {"ceiling", "chance", *targets} <= {found[-1] for found in WRITTEN.findall(drawn.svg)}
    assert overlapping(drawn) == []
    lines = [Curve(target, [1, 2], [chance, ceiling - 0.01 * i]) for i, target in enumerate(targets)]
    drawn = curves("learning", lines, COLORS, marker="o", ceiling=ceiling, chance=chance)
    assert overlapping(drawn) == []


def test_overlapping_names_would_be_seen() -> None:
    made = axes(right=74)
    made.text(0.5, 0.5, "ceiling", transform=made.transAxes)
    made.text(0.52, 0.51, "chance", transform=made.transAxes)
    assert overlapping(render_svg(made, "t", "d")) == [("ceiling", "chance")]
    made = axes(right=74)
    label_ends(made, [Label(0.5, "ceiling", INK), Label(0.5, "chance", INK), Label(0.0, "raw", INK)])
    assert overlapping(render_svg(made, "t", "d")) == []


def test_a_long_name_has_the_room_it_needs() -> None:
    name = "soft-zca-of-both-halves-of-the-training-rows"
    colors = palette({name: "zca"}, ["mobilenetv3"])
    made = dot_plot("accuracy", [Dot("mobilenetv3", name, 0.5)], 0.8, 0.1, colors)
    ((size, _, x, *_),) = [found for found in WRITTEN.findall(made.svg) if found[-1] == name]
    assert float(x) - text_width(name, float(size)) >= 0
    made = curves("learning", [Curve(name, [1, 2], [0.2, 0.4])], colors, marker="o")
    ((size, _, x, *_),) = [found for found in WRITTEN.findall(made.svg) if found[-1] == name]
    assert float(x) + text_width(name, float(size)) <= made.width


def test_each_target_space_has_one_color_its_method_s_and_no_two_share_one() -> None:
    assert (COLORS.slots["raw"], COLORS.slots["zca"], COLORS.slots["gs"]) == ("raw", "zca", "scale")
    assert len(set(COLORS.slots.values())) == 4
    assert len(set(COLORS.markers.values())) == 2


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", HUES)
def test_colors_can_be_read_as_text_on_their_page(name: str) -> None:
    on_white = 1.05 / (luminance(HUES[name].light) + 0.05)
    on_dark = (luminance(HUES[name].dark) + 0.05) / (luminance("#141414") + 0.05)
    assert on_white >= 3.5  # WCAG asks 3 for graphics and large text, 4.5 for small text
    assert on_dark >= 4.5
    assert f"--{name}:{HUES[name].dark}" in stylesheet()
