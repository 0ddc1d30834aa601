"""The report: whole from a whole project, and still a page from a project with anything missing."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cache.atomic import write_text
from cache.errors import DamagedError, MissingError, StaleError
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.report import ReportParams, report
from tests.factories.project import RUNTIME, project, rewrite_evaluation

TARGETS = ["raw", "zca"]
ARMS = [("mobilenetv3", target) for target in TARGETS]
SPLITS = ["train", "val", "badges"]
SECTIONS = [
    "Data",
    "Ceilings",
    "Retrieval",
    "Learning",
    "Spectrum",
    "Agreement",
    "Classes",
    "Neighbors",
    "Probes",
    "Geometry",
    "Normality",
    "Likelihood",
    "Leakage",
    "Cost",
    "Provenance",
]


class Page(HTMLParser):
    """What a browser would see: addresses, ids, text, and tags that were left open."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "path", "use", "line", "rect", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")
        ]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = project(tmp_path_factory.mktemp("project"), targets=tuple(TARGETS))
    for arm in ARMS:
        evaluate(layout.model(*arm), ["badges"], EvaluateParams(map_pairs=10), layout, RUNTIME)
    return layout


@pytest.fixture
def layout(finished: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(finished.root, tmp_path / "copy")
    return Layout(tmp_path / "copy")


def made(layout: Layout) -> str:
    return report(ARMS, SPLITS, TARGETS, ReportParams(samples=6), layout).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(finished: Layout) -> str:
    return made(finished)


def test_the_page_answers_first_and_has_every_section(whole: str) -> None:
    html = whole
    first = re.search(r"<h1>(.*?)</h1>", html)
    assert first
    pattern = (
        r"mobilenetv3 against (raw|zca), the best on badges, is not significantly above chance there; its teacher is\."
    )
    assert re.fullmatch(pattern, first[1])  # they never learned anything
    assert html.index("<h1>") < html.index('id="table-results"') < html.index("<svg")
    assert re.findall(r">([^<]+)</a></h2>", html) == SECTIONS


def test_the_page_asks_nothing_of_any_host_and_is_well_formed(whole: str) -> None:
    html, page = whole, Page(whole)
    assert [a for a in page.addresses if not a.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)|@import|<script src|<link rel=.stylesheet", html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)


def test_two_reports_of_the_same_project_are_the_same_bytes(whole: str, layout: Layout) -> None:
    assert made(layout) == whole


def test_pages_that_run_a_student_are_linked_and_nothing_else_is(layout: Layout, whole: str) -> None:
    assert "Try it" not in whole
    for name in ("mobilenetv3-raw", "mobilenetv3-raw+mobilenetv3-zca", "another-raw"):
        write_text(layout.root / "exports" / f"{name}.html", "")
    text = report(ARMS, SPLITS, TARGETS, ReportParams(samples=0), layout).read_text(encoding="utf-8")
    assert re.findall(r'href="(\.\./[^"]*)"', text) == [
        "../exports/mobilenetv3-raw%2Bmobilenetv3-zca.html",
        "../exports/mobilenetv3-raw.html",
    ]


def test_the_headline_is_the_params_own_rule_and_another_rule_than_students_have_is_refused(layout: Layout) -> None:
    rules = ("whitened", "clip")
    page = report(ARMS, SPLITS, TARGETS, ReportParams(samples=1), layout, rules=rules).read_text(encoding="utf-8")
    assert page.index("badges · clip") < page.index("badges · whitened")
    params = ReportParams(samples=1, headline="whitened")
    page = report(ARMS, SPLITS, TARGETS, params, layout, rules=rules).read_text(encoding="utf-8")
    assert page.index("badges · whitened") < page.index("badges · clip")
    with pytest.raises(UsageError, match=r"'report\.headline': 'soft' is not among evaluate\.rules \[whitened, clip\]"):
        report(ARMS, SPLITS, TARGETS, ReportParams(headline="soft"), layout, rules=rules)


def test_the_page_says_what_its_ceilings_were_fitted_to_and_which_captions_are_candidates(whole: str) -> None:
    """80 training images, 24 dimensions."""
    assert whole.count("was fitted to 80 image rows, below 10 a dimension (240)") == 2  # first screen, and Ceilings
    assert re.search(r"Equal captions are one candidate: of \d+ captions \d+ differ\.", whole)


def test_numbers_say_where_they_come_from(whole: str) -> None:
    assert "mobilenetv3-zca/metrics.json · zero_shot.badges.clip.student" in whole
    assert "python cli.py evaluate --student mobilenetv3 --target zca" in whole


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("models/mobilenetv3-zca", "No result for mobilenetv3-zca yet: run <code>dvc repro</code>"),
        ("models", "No student has been evaluated yet."),
        ("data/targets/zca.h5", "No target space <code>zca</code> yet: run <code>dvc repro</code>"),
        (".", "No student has been evaluated yet."),
        *(
            pytest.param(gone, said, marks=pytest.mark.slow)
            for gone, said in (
                ("data", "No packed images yet"),
                ("data/packed", "No packed images yet"),
            )
        ),
    ],
)
def test_with_anything_missing_it_is_still_a_page_that_says_so(layout: Layout, gone: str, said: str) -> None:
    for path in [layout.root] if gone == "." else list(layout.root.glob(gone)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    html = made(layout)
    assert said in html
    assert Page(html).open == []
    assert re.findall(r">([^<]+)</a></h2>", html) == SECTIONS


@pytest.mark.parametrize("kept", [None, pytest.param("zero_shot", marks=pytest.mark.slow)])
def test_absent_metrics_leave_the_rest_standing(layout: Layout, kept: str | None) -> None:
    for target in TARGETS:
        folder = layout.model("mobilenetv3", target)
        rewrite_evaluation(folder, lambda metrics: {key: v for key, v in metrics.items() if key in {kept, "student"}})
    html = made(layout)
    assert re.findall(r">([^<]+)</a></h2>", html) == SECTIONS
    assert "No retrieval yet: run <code>dvc repro</code>" in html
    assert ("No student has been evaluated yet." in html) is (kept != "zero_shot")


def test_a_metric_that_one_arm_lacks_is_an_empty_cell(layout: Layout) -> None:
    def without(metrics: dict[str, Any]) -> None:
        del metrics["retrieval"], metrics["zero_shot"]["badges"]["whitened"]

    for table in (layout.model("mobilenetv3", target) / "tables" / "badges-classes.csv" for target in TARGETS):
        table.write_text(table.read_text().replace("\n", "\n<script>alert(1)</script>", 1))
    rewrite_evaluation(layout.model("mobilenetv3", "raw"), lambda metrics: None)
    rewrite_evaluation(layout.model("mobilenetv3", "zca"), without)
    html = made(layout)
    assert "<td></td>" in html
    assert "the best on badges" in html
    # Names that come from data do not become markup.
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_bands_of_axes_stand_from_the_strongest_to_the_weakest(layout: Layout) -> None:
    def banded(metrics: dict[str, Any]) -> None:
        metrics["agreement"]["val"]["r2_bands"] = {"1-10": 0.5, "11-50": 0.4, "201-256": 0.1, "51-200": 0.2}

    for target in TARGETS:
        rewrite_evaluation(layout.model("mobilenetv3", target), banded)
    assert re.findall(r"R² axes (\d+)", made(layout))[:4] == ["1", "11", "51", "201"]


FILES = ["metrics.json", "evaluation.json", "history.csv", "student.json", "tables/badges-classes.csv"]
"""Of tables, those of the best arm alone are shown: the one that is damaged here."""


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_renamed_file_is_named_and_not_shown_as_missing(layout: Layout, whole: str, name: str) -> None:
    best = re.search(r"<h1>mobilenetv3 against (raw|zca)", whole)
    assert best
    path = layout.model("mobilenetv3", best[1]) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=re.escape(path.name)):
        made(layout)
    path.rename(path.with_name("renamed"))
    with pytest.raises(MissingError, match=f"{re.escape(path.name)}: missing, though .*"):
        made(layout)


@pytest.mark.parametrize(
    "name", ["packed/val/manifest.json", "embeddings/val/manifest.json", "embeddings/val/image/view-00/shard-00000.h5"]
)
def test_a_split_without_one_of_its_files_is_named_and_not_shown_as_missing(layout: Layout, name: str) -> None:
    path = layout.root / "data" / name
    path.rename(path.with_name("renamed"))
    with pytest.raises(MissingError, match=re.escape(name)):
        made(layout)


def test_the_metrics_of_another_student_and_an_arm_in_anothers_place_are_stale(layout: Layout) -> None:
    first, second = (layout.model("mobilenetv3", target) for target in TARGETS)
    shutil.copy(second / "evaluation.json", first / "evaluation.json")
    with pytest.raises(StaleError, match=r"evaluation.json: of student .*, but student.json is of .* `evaluate` again"):
        made(layout)
    shutil.rmtree(first)
    second.rename(first)
    with pytest.raises(StaleError, match="mobilenetv3-raw: holds the arm 'mobilenetv3-zca'"):
        made(layout)


def test_a_picture_that_was_damaged_after_it_was_embedded_is_not_shown(layout: Layout) -> None:
    path = layout.packed("val") / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"val/shard-00001.tar: SHA-256 .*, but its manifest says"):
        made(layout)
