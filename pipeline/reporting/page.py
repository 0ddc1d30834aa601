"""Building blocks of the report page, and its template."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.reporting.palette import stylesheet
from pipeline.reporting.svg import SvgFigure


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, its provenance, and whether it is the best of its column."""

    text: str
    source: str = ""
    note: str = ""
    """Smaller text after the value."""
    best: bool = False
    color: str = ""
    """Color of a chip before the text."""
    heading: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table of the page."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    reference_rows: int = 0
    """Number of last rows that are references: ceiling and chance."""

    kind = "grid"

    @property
    def csv(self) -> str:
        """Return the table as a download link."""
        plain = CsvTable(self.columns, [[cell.text for cell in row] for row in self.rows])
        return data_uri(plain.csv().encode(), "text/csv")


@dataclass(frozen=True)
class FigureBlock:
    """Panels in rows that wrap."""

    panels: tuple[SvgFigure, ...]
    caption: str = ""

    kind = "pictures"


@dataclass(frozen=True)
class Tile:
    """An image of the data with a text below it."""

    image: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class ImageBlock:
    """A row of images that scrolls if it is too long."""

    tiles: tuple[Tile, ...]
    title: str = ""
    label: str = ""
    """Label before the row."""
    wrap: bool = False

    kind = "tiles"


@dataclass(frozen=True)
class LabeledImage:
    """An image and its most probable labels."""

    image: str
    text: str
    probabilities: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class LabeledImages:
    """Pictures with their labels as bars."""

    images: tuple[LabeledImage, ...]

    kind = "labeled"


@dataclass(frozen=True)
class TextBlock:
    """A paragraph."""

    text: str

    kind = "text"


@dataclass(frozen=True)
class Links:
    """Links to other pages, in a sentence."""

    lead: str
    links: tuple[tuple[str, str], ...]
    """Pairs of text and address."""

    kind = "links"


Block = Links | TableBlock | FigureBlock | ImageBlock | LabeledImages | TextBlock


@dataclass(frozen=True)
class ReportSection:
    """A heading and its blocks."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""
    anchor: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", self.title.lower().replace(" ", "-"))


def render(answer: str, more: str, first: Sequence[Block], sections: Sequence[ReportSection]) -> str:
    """Return the page as one self-contained HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    template = environment.get_template("page.html.j2")
    answer, more = (text.replace(" %", "\u00a0%") for text in (answer, more))  # no line break before a per cent sign
    page = template.render(answer=answer, more=more, first=first, sections=sections, style=style())
    return page.encode("utf-8", "backslashreplace").decode()  # file names that are not UTF-8 are shown with escapes


def style() -> str:
    """Return the CSS that all pages share."""
    return stylesheet() + (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def _code(text: str) -> Markup:
    """Return text as HTML, with text between backticks as code."""
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in parts)


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
