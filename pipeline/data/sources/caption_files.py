"""Clean captions, and read tables of captions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.params import ParamsSection
from pipeline.project.remote.paths import Location, RemotePath

DELIMITERS = "\t,|;"
"""Candidate delimiters of a table; the most frequent one in its first line is used."""

CaptionsByImage = dict[str, list[str]]
"""Captions by image, in the order of the file."""


class CaptionFileParams(ParamsSection):
    """An entry of `index.train.caption_files:`: a table, or JSON lines, of additional captions of the same images."""

    file: Location
    image_column: str = "image"
    """Column with the image: its key, or its name in the source."""
    caption_column: str = "caption"


def clean_captions(captions: Iterable[str]) -> tuple[str, ...]:
    """Return the captions without empty ones; the others keep every character that can be encoded in UTF-8.

    Long captions are kept; the tokenizer truncates them.
    """
    encodable = (caption.encode("utf-8", "replace").decode().strip() for caption in captions)
    return tuple(caption for caption in encodable if caption)


def read_caption_table(path: Path | RemotePath, data: bytes, image: str, caption: str, key: str) -> CaptionsByImage:
    """Return captions by image from a table with a header (CSV, TSV, …) or from JSON lines.

    Raises:
        UsageError: not UTF-8, a line of another shape, or no such columns; names the file and the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"params: '{key}': {path}: not UTF-8 at byte {error.start}") from None
    rows = _json_rows if path.suffix in (".jsonl", ".ndjson") else _table_rows
    pairs: CaptionsByImage = {}
    try:
        for name, texts in rows(text, image, caption):
            pairs.setdefault(name, []).extend(texts)
    except _ShapeError as error:
        raise UsageError(f"params: '{key}': {path}{error}") from None
    if not pairs:
        raise UsageError(f"params: '{key}': {path}: no captions in it")
    return pairs


class _ShapeError(ValueError):
    """A line that is not a caption; the message begins with its position."""


def _table_rows(text: str, image: str, caption: str) -> Iterator[tuple[str, list[str]]]:
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        names = [name.strip() for name in rows.fieldnames or ()]
        _require(image, names)
        _require(caption, names)
        rows.fieldnames = names
        for row in rows:
            if row[image] is None or row[caption] is None or None in row:
                raise _ShapeError(f":{rows.line_num}: expected {len(names)} columns ({', '.join(names)})")
            yield row[image].strip(), [row[caption]]
    except csv.Error as error:
        raise _ShapeError(f":{rows.line_num}: not a table: {error}") from None


def _require(column: str, names: list[str]) -> None:
    if column not in names:
        raise _ShapeError(f":1: no column '{column}'{did_you_mean(column, names)} (found: {', '.join(names)[:200]})")


def _json_rows(text: str, image: str, caption: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _ShapeError(f":{number}: not JSON: {error}") from None
        name = row.get(image) if isinstance(row, dict) else None
        captions = parse_captions(row.get(caption)) if isinstance(row, dict) else None
        if not isinstance(name, str) or captions is None:
            raise _ShapeError(f':{number}: expected {{"{image}": "a.jpg", "{caption}": "…" or ["…", …]}}')
        yield name, captions


def parse_captions(value: Any) -> list[str] | None:
    """Return a JSON value as captions: a string or a list of strings; None for other values."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(caption, str) for caption in value):
        return value
    return None
