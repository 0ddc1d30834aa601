"""List the names and sizes of a split: what is on disk now."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.listing import save_listing
from pipeline.data.reading import Source
from pipeline.project.layout import Layout


def index(split: str, source: Source, layout: Layout) -> Path:
    """Write `data/index/<split>.json`; equal disks give equal bytes, which stops everything that hangs on it.

    Raises:
        UsageError: a folder or a captions file is missing, empty, or does not fit the other.
    """
    path = layout.index(split)
    save_listing(path, source.model_dump(mode="json"), source.listing(f"index.{split}"))
    return path
