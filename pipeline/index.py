"""List the names and sizes of a split: what is on disk now."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.sources.base import Source
from pipeline.data.sources.listing import save_listing
from pipeline.data.sources.split_overlap import check_no_overlap
from pipeline.project.layout import Layout


def index(split: str, source: Source, layout: Layout, train: Source | None = None) -> Path:
    """Write `data/index/<split>.json`; equal disks give equal bytes, which stops everything that hangs on it.

    `train` is where the training split comes from: no other split may share an image with it.

    Raises:
        UsageError: a folder or a captions file is missing, empty, or does not fit the other; or a leak.
    """
    path = layout.index(split)
    listing = source.listing(f"index.{split}")
    if train is not None and split != "train":
        check_no_overlap(split, source, listing, train)
    save_listing(path, source.model_dump(mode="json"), listing)
    return path
