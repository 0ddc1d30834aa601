"""The page's pieces: tables that download, code in sentences, and text that stays text."""

from __future__ import annotations

import base64
import re
from collections import Counter
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.page import Cell, ImageBlock, ReportSection, TableBlock, TextBlock, Tile, render


def page(*sections: ReportSection, answer: str = "It works.") -> str:
    return render(answer, "", [], list(sections))


def test_a_table_downloads_as_the_csv_that_it_shows() -> None:
    grid = TableBlock("numbers", ("name", "value"), ((Cell("a, b", heading=True), Cell("1.5", "file\ncommand")),))
    kind, _, data = grid.csv.partition(",")
    assert kind == "data:text/csv;base64"
    assert base64.b64decode(data).decode() == 'name,value\n"a, b",1.5\n'
    html = page(ReportSection("Numbers", [grid]))
    assert 'download="numbers.csv"' in html
    assert 'data-from="file\ncommand"' in html


def test_the_best_is_bold_and_reference_rows_stand_apart() -> None:
    rows = ((Cell("a", heading=True), Cell("1", best=True)), (Cell("ceiling", heading=True), Cell("2")))
    html = page(ReportSection("S", [TableBlock("g", ("x", "y"), rows, reference_rows=1)]))
    assert '<td class="best">1</td>' in html
    assert html.count('class="reference"') == 1


def test_what_stands_between_backticks_is_code_and_nothing_is_markup() -> None:
    html = page(ReportSection("S", [TextBlock("run `dvc <repro>` & wait")]), answer="<b>bold</b> claims")
    assert "run <code>dvc &lt;repro&gt;</code> &amp; wait" in html
    assert "<h1>&lt;b&gt;bold&lt;/b&gt; claims</h1>" in html


class Parsed(HTMLParser):
    """A page as a browser reads it: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.texts += [value or "" for name, value in attrs if name in ("alt", "data-from", "download")]
        assert [name for name, _ in attrs if name.startswith("on")] == []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


NAMES = st.text(st.sampled_from(list("<>&\"'`{}%$[]/=a \ud800é犬")), max_size=20)


def everywhere(name: str) -> str:
    """Return a page with a name in every place that takes one."""
    grid = TableBlock(name, (name, "y"), ((Cell(name, name, note=name, heading=True), Cell("1")),), caption=name)
    tiles = ImageBlock((Tile("data:,", name, note=name),), title=name, label=name)
    return page(ReportSection(name, [grid, tiles, TextBlock(name)], lead=name), answer=name)


@settings(max_examples=25, deadline=None)
@given(NAMES)
def test_any_name_stays_text_in_every_place_of_a_page(name: str) -> None:
    found, plain = Parsed(everywhere(f"x{name}")), Parsed(everywhere("x"))
    code = 3 * ((name.count("`") + 1) // 2)  # in the three places that are sentences
    assert found.tags - plain.tags == Counter({"code": code} if code else {})
    assert f"x{name}".encode("utf-8", "backslashreplace").decode() in found.texts


def test_each_section_can_be_linked_to_and_stands_in_the_contents() -> None:
    html = page(ReportSection("Data", [TextBlock("x")]), ReportSection("What is left", [TextBlock("y")]))
    assert re.findall(r'<section id="([^"]+)">', html) == ["data", "what-is-left"]
    assert html.count('href="#what-is-left"') == 2


def test_an_image_of_the_data_has_its_words_as_alternative_text() -> None:
    html = page(ReportSection("S", [ImageBlock((Tile("data:image/webp;base64,AA==", 'a "cat"'),), label="student")]))
    assert 'alt="a &#34;cat&#34;"' in html
    assert ">student</span>" in html
