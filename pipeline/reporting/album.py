"""Thumbnails of packed samples for the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.data.errors import BadImageError
from pipeline.data.packing.packed import Sample
from pipeline.data.user_images import thumbnail
from pipeline.reporting.page import Tile, data_uri


@dataclass(frozen=True)
class Album:
    """Chosen samples of a split by key."""

    samples: dict[str, Sample]
    side: int

    def tile(self, key: str, text: str | None = None, note: str = "") -> Tile | None:
        """Return an image with words below it, or nothing where the split no longer has it."""
        sample = self.samples.get(key)
        if sample is None:
            return None
        try:
            image = data_uri(thumbnail(sample.image, self.side), "image/webp")
        except BadImageError:
            return None
        return Tile(image, next(iter(sample.captions), key) if text is None else text, note)

    def caption(self, key: str, number: str = "") -> str | None:
        """Return a caption of a sample by its number, or nothing to take the first."""
        sample = self.samples.get(key)
        return sample.captions[int(number)] if sample and number and int(number) < len(sample.captions) else None

    def tiles(self, keys: Iterable[str]) -> tuple[Tile, ...]:
        """Return those of the keys that are there."""
        return tuple(tile for key in keys if (tile := self.tile(key)))
