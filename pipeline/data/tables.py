"""A folder of images, with captions in a table (CSV, TSV, JSON lines) or without any."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.data.captions import read_pairs
from pipeline.data.listing import Entry, Listing, Plan, file_entries, scan
from pipeline.data.reading import FolderSource, Loaded, read_document, refuse_missing
from pipeline.project.errors import UsageError


class Images(FolderSource):
    """A folder of images and nothing else, for distillation without captions."""

    source: Literal["images"]
    images: Path

    @property
    def folder(self) -> Path:
        """The folder of images."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List all files."""
        return Listing(scan(self.images, f"{key}.images"))

    def plan(self, listing: Listing) -> Plan:
        """Every file is an image, or will be skipped as none."""
        return file_entries(listing.files)


class Table(Images):
    """Images with captions in a table: one line a caption, an image may have several."""

    source: Literal["table"]  # type: ignore[assignment]
    captions: Path
    image_column: str = "image"
    caption_column: str = "caption"

    def listing(self, key: str) -> Listing:
        """List the images that the table names, and refuse captions of images that are not there."""
        sizes = dict(scan(self.images, f"{key}.images"))
        data = read_document(self.captions, f"{key}.captions")
        wanted = list(self._pairs(data, f"{key}.captions"))
        refuse_missing(sizes, wanted, self.images, self.captions, f"{key}.captions")
        files = tuple((name, sizes[name]) for name in sorted(wanted))
        return Listing(files, ((self.captions.name, hashlib.sha256(data).hexdigest()),))

    def plan(self, listing: Listing) -> Plan:
        """Give each image its captions, in the table's order."""
        pairs = self._pairs(read_document(self.captions, "captions"), "captions")
        plan = file_entries(listing.files)
        entries = (replace(entry, captions=tuple(pairs[entry.origin])) for entry in plan.entries)
        return Plan(tuple(entries), plan.skipped)

    def load(self, entry: Entry) -> Loaded:
        """Read one image."""
        return Loaded(self.read(entry), entry.captions)

    def _pairs(self, data: bytes, key: str) -> dict[str, list[str]]:
        pairs = read_pairs(self.captions, data, self.image_column, self.caption_column, key)
        below: dict[str, list[str]] = {}
        for name, captions in pairs.items():
            below.setdefault(self._below(name, key), []).extend(captions)
        return below

    def _below(self, name: str, key: str) -> str:
        """Return an image's name below the folder; a whole path is allowed where it leads there."""
        path = PurePosixPath(name)
        if path.is_absolute() and path.is_relative_to(self.images.absolute()):
            path = path.relative_to(self.images.absolute())
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"params: '{key}': {self.captions} names {name!r}, which is not below {self.images}")
        return str(path)
