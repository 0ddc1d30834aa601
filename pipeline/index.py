"""List the present file names and sizes of a split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.data.sources.base import Source
from pipeline.data.sources.coco import Coco, coco_image_id
from pipeline.data.sources.composite import CompositeSource
from pipeline.data.sources.further_captions import hash_caption_files
from pipeline.data.sources.karpathy import Karpathy
from pipeline.data.sources.listing import Listing, save_listing
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout


def index(split: str, source: Source, layout: Layout, train: Source | None = None) -> Path:
    """Write `data/index/<split>.json`; equal files give equal bytes, so that later stages do not run again.

    `train` is the source of the training split, with which no other split may share an image.

    Raises:
        UsageError: a folder or a captions file is missing, empty, or inconsistent; or a shared image.
    """
    path = layout.index(split)
    listing = source.listing(f"index.{split}")
    if train is not None and split != "train":
        check_no_overlap(split, source, listing, train)
    captions = hash_caption_files(source, listing, split) if source.caption_files else ()
    save_listing(path, source.model_dump(mode="json"), replace(listing, caption_files=captions))
    return path


def check_no_overlap(split: str, source: Source, listing: Listing, train: Source) -> None:
    """Refuse a split that shares images with the training split.

    Two images are the same if they have the same location, or the same COCO number, which did not change from 2014 to
    2017: most test images of Karpathy's split are in train2017.

    Raises:
        UsageError: the number of shared images, and one of them.
    """
    trained = train.listing("index.train")
    shared = sorted(source.locations(listing) & train.locations(trained))
    what = "lie in the same place"
    if not shared:
        ours, theirs = _coco_numbers(source, listing), _coco_numbers(train, trained)
        both = sorted(ours.keys() & theirs.keys())
        shared = [str(number) for number in both if ours[number] or theirs[number]]
        what = "have the same number in COCO"
    if shared:
        raise UsageError(
            f"params: 'index.{split}': {len(shared)} of its images are in 'index.train' too: they {what}, the first: "
            f"{shared[0]}. A split that is evaluated must not be trained on: take both from the same edition "
            "(`source: karpathy` for both, or train2017 with val2017)."
        )


def _coco_numbers(source: Source, listing: Listing) -> dict[int, bool]:
    """Return the COCO numbers of a split, and whether they are certain: any file can be named 000000000001.jpg."""
    if isinstance(source, CompositeSource):
        parts = [_coco_numbers(part, below) for _, part, below in source.parts(listing)]
        return {number: sure for part in parts for number, sure in part.items()}
    if not isinstance(source, Coco | Karpathy):
        return {}
    names = [name.rpartition("/")[2] for name, _ in listing.files]
    numbers = ((coco_image_id(name), name.startswith("COCO_") or isinstance(source, Karpathy)) for name in names)
    return {number: sure for number, sure in numbers if number is not None}
