"""Word maps of a scorer: a photo, a caption, and the contribution of each word at each position."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby
from urllib.parse import quote

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.page import Block, ImageBlock, TextBlock, Tile
from pipeline.reporting.results import ArmResults

FOR, AGAINST = "#16a34a", "#dc2626"
"""Green and red of the overlay, on any photo."""
STRONGEST = 0.72
"""Opacity of the largest contribution in an example; contributions of a tenth of it or less are not drawn."""
LEAD = (
    "Contribution of each word at each position to the score of a caption: green raises it, red lowers it. All tiles "
    "of a photo have the same scale; a word without color has no effect. One question per task: the first that the "
    "student’s scorer answers correctly and plain cosine does not, if there is one."
)
WORDS = {"student": "student’s tokens", "teacher": "teacher’s tokens"}


def word_map_blocks(inputs: ReportInputs) -> list[Block]:
    """Return the photos with their captions, true and false ones; empty if no arm has maps."""
    for arm in inputs.results.measured:
        for split in inputs.results.splits:
            if (table := _table(arm, split)) is not None and table.rows:
                blocks = [block for rows in _examples(table) for block in _example(inputs, split, rows)]
                return [TextBlock(f"{LEAD} Student: {arm.name}, {split}."), *blocks] if blocks else []
    return []


def _table(arm: ArmResults, split: str) -> CsvTable | None:
    return arm.table(f"{split}-maps")


def _examples(table: CsvTable) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of each question."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    for _, group in groupby(rows, key=lambda row: (row["key"], row["task"])):
        yield list(group)


def _example(inputs: ReportInputs, split: str, rows: list[dict[str, str]]) -> Iterator[Block]:
    """Yield a heading with the photo, and one row of words per caption: by the student, then by its teacher."""
    key = rows[0]["key"]
    album = inputs.album(split, [key])
    photo = album.tile(key, "") if album else None
    if photo is None:
        return
    largest = max(abs(value) for row in rows for value in _values(row))
    for who, group in groupby(rows, key=lambda row: row["tokens"]):
        captions = [list(words) for _, words in groupby(group, key=lambda row: row["caption"])]
        best, cosine = (max(captions, key=lambda words: float(words[0][name]))[0] for name in ("score", "cosine"))
        title = f"{rows[0]['task']}, {WORDS[who]}: " + ", ".join(
            f"{what} {'right' if answer['true'] == '1' else 'wrong'}"
            for what, answer in (("scorer", best), ("plain cosine", cosine))
        )
        for number, words in enumerate(captions):
            first = words[0]
            verdict = "true" if first["true"] == "1" else "false"
            mark = "✓ chosen" if first is best else ""
            head = Tile(photo.image, first["caption"], f"{verdict}, score {float(first['score']):.2f} {mark}".strip())
            tiles = (
                head,
                *(Tile(overlay(photo.image, _values(row), largest), row["word"], _sum(row)) for row in words),
            )
            yield ImageBlock(tiles, title if number == 0 else "", verdict, wrap=True)


def _values(row: dict[str, str]) -> list[float]:
    return [float(value) for value in row["places"].split()]


def _sum(row: dict[str, str]) -> str:
    return f"{sum(_values(row)):+.2f}"


def overlay(image: str, values: list[float], largest: float) -> str:
    """Return an image's data URI with a colored square on each position, as a self-contained SVG."""
    side = round(len(values) ** 0.5)
    squares = []
    for place, value in enumerate(values):
        strength = abs(value) / largest if largest else 0.0
        if strength > 0.1:
            y, x = divmod(place, side)
            color = FOR if value > 0 else AGAINST
            squares.append(
                f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill="{color}" '
                f'fill-opacity="{STRONGEST * strength**0.5:.2f}"/>'
            )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">'
        f'<image href="{escape(image)}" width="{side}" height="{side}" preserveAspectRatio="xMidYMid slice" '
        f'style="filter:grayscale(1) brightness(1.15)"/>{"".join(squares)}</svg>'
    )
    return f"data:image/svg+xml,{quote(svg)}"
