"""Choice sets from files: images, and a table of captions with foils, in this project's layout or a benchmark's."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from pipeline.data.sources.base import FolderSource, LoadedSample, check_images_exist, read_metadata_file
from pipeline.data.sources.listing import Choice, Entry, Listing, SamplePlan, entries_from_files, scan
from pipeline.project.errors import UsageError
from pipeline.project.remote.paths import Location, RemotePath

Row = tuple[str, Choice]
"""Name of an image below the folder, and one of its choices."""


def _lines(text: str, task: str) -> Iterator[Row]:
    """Read this project's layout: JSON lines of image, caption, foils, and optionally task and group."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _parsed(line, f":{number}")
            foils = row["foils"] if isinstance(row["foils"], list) else [row["foils"]]
            yield (
                row["image"],
                Choice(row["caption"], tuple(foils), str(row.get("task", task)), str(row.get("group", ""))),
            )


def _sugarcrepe(text: str, task: str) -> Iterator[Row]:
    """Read SugarCrepe: {"0": {"filename", "caption", "negative_caption"}, …}, one file per task."""
    for row in _parsed(text).values():
        yield row["filename"], Choice(row["caption"], (row["negative_caption"],), task)


def _aro(text: str, task: str) -> Iterator[Row]:
    """Read ARO's Visual Genome sets: [{"image_path", "true_caption", "false_caption", …}, …]."""
    for row in _parsed(text):
        yield PurePosixPath(row["image_path"]).name, Choice(row["true_caption"], (row["false_caption"],), task)


def _whatsup(text: str, task: str) -> Iterator[Row]:
    """Read What's Up's controlled images: [{"image_path", "caption_options"}, …]; the first option is true."""
    for row in _parsed(text):
        true, *foils = row["caption_options"]
        yield PurePosixPath(row["image_path"]).name, Choice(true, tuple(foils), task)


def _negbench(text: str, task: str) -> Iterator[Row]:
    """Read NegBench's multiple choice: CSV of image_path, correct_answer (a number) and caption_0 to caption_3."""
    for row in csv.DictReader(io.StringIO(text, newline="")):
        options = [row[f"caption_{i}"] for i in range(sum(name.startswith("caption_") for name in row))]
        true = options.pop(int(row["correct_answer"]))
        yield PurePosixPath(row["image_path"]).name, Choice(true, tuple(options), task)


def _winoground(text: str, task: str) -> Iterator[Row]:
    """Read Winoground: JSON lines of id, image_0, image_1, caption_0, caption_1; images are `<name>.png`."""
    for line in text.split("\n"):
        if line.strip():
            row = _parsed(line)
            for own, other in ((0, 1), (1, 0)):
                choice = Choice(row[f"caption_{own}"], (row[f"caption_{other}"],), task, str(row["id"]))
                yield f"{row[f'image_{own}']}.png", choice


LAYOUTS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    "lines": _lines,
    "sugarcrepe": _sugarcrepe,
    "aro": _aro,
    "whatsup": _whatsup,
    "negbench": _negbench,
    "winoground": _winoground,
}


class ChoiceTable(FolderSource):
    """Images with choices in a table: `{source: choices, images: DIR, table: FILE, layout: lines}`."""

    source: Literal["choices"]
    images: Location
    table: Location
    layout: Literal["lines", "sugarcrepe", "aro", "whatsup", "negbench", "winoground"] = "lines"
    task: str = Field(default="", validate_default=True)
    """Task of the choices if the layout names none; default: the table's name."""

    @property
    def folder(self) -> Path | RemotePath:
        """The folder of images."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List the images named by the table; refuse choices of missing images."""
        sizes = dict(scan(self.images, f"{key}.images"))
        data = read_metadata_file(self.table, f"{key}.table")
        names = sorted(self._choices(data, f"{key}.table"))
        check_images_exist(sizes, names, self.images, self.table, f"{key}.table")
        return Listing(
            tuple((name, sizes[name]) for name in names), ((self.table.name, hashlib.sha256(data).hexdigest()),)
        )

    def plan(self, listing: Listing) -> SamplePlan:
        """Give each image its choices, in the table's order."""
        choices = self._choices(read_metadata_file(self.table, "table"), "table")
        plan = entries_from_files(listing.files)
        return SamplePlan(
            tuple(replace(entry, choices=tuple(choices[entry.origin])) for entry in plan.entries), plan.skipped
        )

    def load(self, entry: Entry) -> LoadedSample:
        """Read one image."""
        return LoadedSample(self.read(entry), choices=entry.choices)

    def _choices(self, data: bytes, key: str) -> dict[str, list[Choice]]:
        """Return the choices by image.

        Raises:
            UsageError: another layout, or a caption among its own foils; names the file.
        """
        choices: dict[str, list[Choice]] = {}
        try:
            for name, choice in LAYOUTS[self.layout](data.decode("utf-8-sig"), self.task or self.table.stem):
                _check(choice)
                choices.setdefault(name, []).append(choice)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, csv.Error) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"params: '{key}': {self.table}: not of the layout '{self.layout}': {reason}") from None
        if not choices:
            raise UsageError(f"params: '{key}': {self.table}: no choices in it")
        return choices


def _parsed(text: str, place: str = "") -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{place} nested too deep") from None


def _check(choice: Choice) -> None:
    texts = (choice.caption, *choice.foils)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"a choice without text: {texts!r}")
    if not choice.foils:
        raise ValueError(f"no foil for {choice.caption!r}")
    if choice.caption in choice.foils:
        raise ValueError(f"{choice.caption!r} stands among its own foils")
