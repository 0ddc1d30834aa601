"""The page: what a section is made of, and the one template that sets it."""

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
    """A value of a table: what is read, where it comes from, and whether it is the best of its column."""

    text: str
    source: str = ""
    note: str = ""
    """Said smaller, after the value."""
    best: bool = False
    color: str = ""
    """A chip before the text."""
    heading: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table of the page."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    reference_rows: int = 0
    """So many last rows are no contenders: ceiling and chance."""

    kind = "grid"

    @property
    def csv(self) -> str:
        """Return the table as a link that downloads it."""
        plain = CsvTable(self.columns, [[cell.text for cell in row] for row in self.rows])
        return data_uri(plain.csv().encode(), "text/csv")


@dataclass(frozen=True)
class FigureBlock:
    """Panels side by side, as many in a row as there is room for."""

    panels: tuple[SvgFigure, ...]
    caption: str = ""

    kind = "pictures"


@dataclass(frozen=True)
class Tile:
    """An image of the data with words below it."""

    image: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class ImageBlock:
    """Images of the data in a row of their own, which scrolls where it is too long."""

    tiles: tuple[Tile, ...]
    title: str = ""
    label: str = ""
    """Before the row: whose it is."""
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
    """Pictures with their labels as bars, one below the other."""

    images: tuple[LabeledImage, ...]

    kind = "labeled"


@dataclass(frozen=True)
class TextBlock:
    """A paragraph; an empty state is one too."""

    text: str

    kind = "text"


@dataclass(frozen=True)
class Links:
    """Links to other pages, in a sentence."""

    lead: str
    links: tuple[tuple[str, str], ...]
    """Text and address, each."""

    kind = "links"


Block = Links | TableBlock | FigureBlock | ImageBlock | LabeledImages | TextBlock


@dataclass(frozen=True)
class ReportSection:
    """A heading with what stands below it."""

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
    answer, more = (text.replace(" %", "\u00a0%") for text in (answer, more))  # a line never begins with a per cent
    page = template.render(answer=answer, more=more, first=first, sections=sections, style=style())
    return page.encode("utf-8", "backslashreplace").decode()  # bytes of file names that are not UTF-8, as escapes


def style() -> str:
    """Return the look that all pages share, as CSS."""
    return stylesheet() + (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def _code(text: str) -> Markup:
    """Return text as HTML in which what stands between backticks is code."""
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in parts)


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
