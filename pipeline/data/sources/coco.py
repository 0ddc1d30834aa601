"""COCO's layout: a folder of images, and a JSON of captions by image id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pipeline.data.sources.base import FolderSource, LoadedSample, check_images_exist, read_json, refuse_changed
from pipeline.data.sources.listing import Entry, Listing, SamplePlan, SkippedSample, entries_from_files, scan
from pipeline.project.errors import UsageError
from pipeline.project.remote.paths import Location, RemotePath

_NUMBER = re.compile(r"(?:COCO_(?:train|val|test)2014_)?(\d{12})\.jpg")


def coco_image_id(name: str) -> int | None:
    """Return COCO's image number from its file name of 2014 or 2017, or None."""
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else None


class Coco(FolderSource):
    """`train2017/` and `annotations/captions_train2017.json`, as downloaded, or data in the same layout."""

    source: Literal["coco"]
    images: Location
    captions: Location

    @property
    def folder(self) -> Path | RemotePath:
        """The folder of images."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List the images named by the captions file; refuse captions of missing images."""
        named = dict(scan(self.images, f"{key}.images"))
        document, sha = read_json(self.captions, f"{key}.captions")
        names = [name for name, _ in self._images(document, f"{key}.captions")]
        check_images_exist(named, names, self.images, self.captions, f"{key}.captions")
        files = tuple((name, named[name]) for name in sorted(set(names)))
        return Listing(files, metadata_files=((self.captions.name, sha),))

    def plan(self, listing: Listing) -> SamplePlan:
        """Give each image its captions, in the file's order."""
        document, sha = read_json(self.captions, "captions")
        refuse_changed(self.captions, sha, listing)
        ids: dict[str, Any] = {}
        names: dict[Any, str] = {}
        skipped = []
        for name, number in self._images(document, "captions"):
            if name in ids:
                skipped.append(
                    SkippedSample("", str(number), f"duplicate: {name} is listed already, as id {ids[name]}")
                )
            if names.setdefault(number, name) != name:
                raise UsageError(f"{self.captions}: id {number} is {names[number]!r} and {name!r}: give each its own.")
            ids.setdefault(name, number)
        captions: dict[Any, list[str]] = {number: [] for number in ids.values()}
        for number, caption in self._annotations(document):
            if number in captions:
                captions[number].append(caption)
            else:
                skipped.append(SkippedSample("", str(number), "a caption of an image that is not in the file"))
        plan = entries_from_files(listing.files)
        entries = (replace(e, origin=str(ids[e.origin]), captions=tuple(captions[ids[e.origin]])) for e in plan.entries)
        return SamplePlan(tuple(entries), (*plan.skipped, *skipped))

    def load(self, entry: Entry) -> LoadedSample:
        """Read one image."""
        return LoadedSample(self.read(entry), entry.captions)

    def _images(self, document: Any, key: str) -> Iterator[tuple[str, Any]]:
        try:
            for image in document["images"]:
                name, number = image["file_name"], image["id"]
                if not isinstance(name, str) or not isinstance(number, int | str):
                    raise TypeError
                yield name, number
            if not document["images"] or not isinstance(document["annotations"], list):
                raise TypeError
        except (TypeError, KeyError):
            raise UsageError(
                f"params: '{key}': {self.captions}: expected COCO's captions: "
                '{"images": [{"id": 1, "file_name": "a.jpg"}, …], "annotations": [{"image_id": 1, "caption": "…"}, …]}'
            ) from None

    def _annotations(self, document: Any) -> Iterator[tuple[Any, str]]:
        for number, annotation in enumerate(document["annotations"]):
            try:
                image, caption = annotation["image_id"], annotation["caption"]
            except (TypeError, KeyError):
                image = caption = None
            if not isinstance(image, int | str) or not isinstance(caption, str):
                raise UsageError(f"{self.captions}: annotations[{number}] is no caption: {str(annotation)[:80]}")
            yield image, caption
