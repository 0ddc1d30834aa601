"""The report: whole from a whole project, and still a page from a project with anything missing."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cache.errors import DamagedError
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.project.layout import Layout
from pipeline.report import ReportParams, report
from tests.made_project import RUNTIME, project

TARGETS = ["raw", "zca"]
ARMS = [("mobilenetv3", target) for target in TARGETS]
SPLITS = ["train", "val", "badges"]


class Page(HTMLParser):
    """What a browser would see: addresses, ids, text, and tags that were left open."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "path", "use", "line", "rect", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
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
        evaluate(layout.model(*arm), ["badges"], EvaluateParams(), layout, RUNTIME)
    return layout


@pytest.fixture
def layout(finished: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(finished.root, tmp_path / "copy")
    return Layout(tmp_path / "copy")


def made(layout: Layout) -> str:
    return report(ARMS, SPLITS, TARGETS, ReportParams(samples=6), layout).read_text(encoding="utf-8")


def test_the_page_answers_first_and_has_every_section(layout: Layout) -> None:
    html = made(layout)
    first = re.search(r"<h1>(.*?)</h1>", html)
    assert first
    pattern = r"mobilenetv3 against (raw|zca) keeps \d+ % of its teacher’s zero-shot accuracy on badges\."
    assert re.fullmatch(pattern, first[1])
    assert html.index("<h1>") < html.index('id="table-results"') < html.index("<svg")
    for title in ("Data", "Ceilings", "Learning", "Spectrum", "Agreement", "Classes", "Neighbours", "Provenance"):
        assert f">{title}</a></h2>" in html


def test_the_page_asks_nothing_of_any_host_and_is_well_formed(layout: Layout) -> None:
    html = made(layout)
    page = Page(html)
    assert [a for a in page.addresses if not a.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)|@import|<script src|<link rel=.stylesheet", html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)


def test_two_reports_of_the_same_project_are_the_same_bytes(layout: Layout) -> None:
    assert made(layout) == made(layout)


def test_numbers_say_where_they_come_from(layout: Layout) -> None:
    html = made(layout)
    assert "mobilenetv3-zca/metrics.json · zero_shot.badges.clip.student" in html
    assert "python cli.py evaluate --student mobilenetv3 --target zca" in html


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("models/mobilenetv3-zca", "No result for mobilenetv3-zca yet: run `dvc repro`"),
        ("models/mobilenetv3-zca/metrics.json", "No result for mobilenetv3-zca yet"),
        ("models/mobilenetv3-zca/tables", "mobilenetv3-zca/metrics.json"),
        ("models/mobilenetv3-zca/history.csv", "mobilenetv3: zero-shot top-1"),
        ("models/mobilenetv3-zca/student.json", "mobilenetv3-zca/metrics.json"),
        ("models", "No student has been evaluated yet."),
        ("data/targets", "R² along each axis"),
        ("data/packed", "No packed images yet"),
        ("data/embeddings", "No packed images yet"),
        ("data/moments.h5", "keeps"),
        (".", "No student has been evaluated yet."),
    ],
)
def test_with_anything_missing_it_is_still_a_page_that_says_so(layout: Layout, gone: str, said: str) -> None:
    path = layout.root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    html = made(layout)
    assert said in html
    assert Page(html).open == []
    assert len(re.findall("<h2>", html)) == 8


def test_one_absent_metric_leaves_the_rest_standing(layout: Layout) -> None:
    import json

    path = layout.model("mobilenetv3", "zca") / "metrics.json"
    found = json.loads(path.read_text())
    for name in ("retrieval", "agreement", "zero_shot"):
        path.write_text(json.dumps({key: value for key, value in found.items() if key != name}))
        assert "mobilenetv3" in made(layout)


def test_damaged_metrics_are_named_and_not_shown_as_missing(layout: Layout) -> None:
    (layout.model("mobilenetv3", "zca") / "metrics.json").write_text('{"student": ')
    with pytest.raises(DamagedError, match=r"metrics.json: not JSON"):
        made(layout)


def test_names_from_data_cannot_become_markup(layout: Layout) -> None:
    for table in (layout.model("mobilenetv3", target) / "tables" / "badges-classes.csv" for target in TARGETS):
        table.write_text(table.read_text().replace("\n", "\n<script>alert(1)</script>", 2).replace("<script>", "", 1))
    html = made(layout)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
