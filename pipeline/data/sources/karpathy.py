"""The Karpathy split of COCO and Flickr: one JSON file with the split of each image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.data.sources.base import FolderSource, LoadedSample, check_images_exist, read_json, refuse_changed
from pipeline.data.sources.coco import coco_image_id
from pipeline.data.sources.listing import Entry, Listing, SamplePlan, SkippedSample, entries_from_files, scan
from pipeline.project.errors import UsageError
from pipeline.project.remote.paths import Location, RemotePath

KarpathySplit = Literal["train", "restval", "val", "test"]


@dataclass(frozen=True)
class _Image:
    name: str
    folder: str
    captions: tuple[str, ...]


class Karpathy(FolderSource):
    """`dataset_coco.json` and the images of 2014 or 2017 below one folder; `parts: [train, restval]` is the usual 113k.

    Most of its test images are in train2017, so training and evaluation splits must both come from it.
    """

    source: Literal["karpathy"]
    images: Location
    captions: Location
    parts: tuple[KarpathySplit, ...] = Field(min_length=1)

    @property
    def folder(self) -> Path | RemotePath:
        """The folder of images."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List the images of these parts, anywhere below the folder."""
        sizes = dict(scan(self.images, f"{key}.images"))
        document, sha = read_json(self.captions, f"{key}.captions")
        images = list(self._images(document, f"{key}.captions"))
        if not images:
            raise UsageError(f"params: '{key}.parts': {self.captions} has no images of {', '.join(self.parts)}")
        places = _places(sizes)
        calls = [_place(image, places) for image in images]
        check_images_exist(places, calls, self.images, self.captions, f"{key}.captions")
        names = sorted({places[call] for call in calls})
        return Listing(tuple((name, sizes[name]) for name in names), ((self.captions.name, sha),))

    def plan(self, listing: Listing) -> SamplePlan:
        """Give each image its captions."""
        document, sha = read_json(self.captions, "captions")
        refuse_changed(self.captions, sha, listing)
        places = _places(dict(listing.files))
        captions: dict[str, tuple[str, ...]] = {}
        skipped = []
        for image in self._images(document, "captions"):
            name = places[_place(image, places)]
            if name in captions:
                skipped.append(SkippedSample("", image.name, f"duplicate: {name} is listed already"))
            captions.setdefault(name, image.captions)
        plan = entries_from_files(listing.files)
        entries = (replace(entry, captions=captions[entry.origin]) for entry in plan.entries)
        return SamplePlan(tuple(entries), (*plan.skipped, *skipped))

    def load(self, entry: Entry) -> LoadedSample:
        """Read one image."""
        return LoadedSample(self.read(entry), entry.captions)

    def _images(self, document: Any, key: str) -> Iterator[_Image]:
        try:
            for image in document["images"]:
                captions = tuple(str(sentence["raw"]) for sentence in image["sentences"])
                if image["split"] in self.parts:
                    yield _Image(str(image["filename"]), str(image.get("filepath", "")), captions)
        except (TypeError, KeyError, AttributeError):
            raise UsageError(
                f"params: '{key}': {self.captions}: expected Karpathy's split: "
                '{"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "…"}, …]}, …]}'
            ) from None


def _places(names: dict[str, int]) -> dict[str, str]:
    """Return all names of a listed file: its path, its file name, and COCO's image number."""
    places = {}
    for path in names:
        name = path.rpartition("/")[2]
        places[path] = places[name] = path
        if (number := coco_image_id(name)) is not None:
            places[f"coco {number}"] = path
    return places


def _place(image: _Image, places: dict[str, str]) -> str:
    number = coco_image_id(image.name)
    calls = f"{image.folder}/{image.name}", image.name, f"coco {number}"
    return next((call for call in calls if call in places), image.name)
