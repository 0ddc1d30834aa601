"""The data's own pictures: samples, confusions and neighbours, as small images in the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.data.errors import BadImageError
from pipeline.data.samples import Packed, Sample
from pipeline.data.thumbnails import thumbnail
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

    def tiles(self, keys: Iterable[str]) -> tuple[Tile, ...]:
        """Return those of the keys that are there."""
        return tuple(tile for key in keys if (tile := self.tile(key)))


def open_album(packed: Packed, wanted: Sequence[str], side: int) -> Album:
    """Read the wanted samples of a split; shards are read in order, until all were found."""
    left, found = set(wanted), {}
    for number in range(len(packed.shards)):
        if not left:
            break
        for sample in packed.read(number, "size"):
            if sample.key in left:
                found[sample.key] = sample
                left.discard(sample.key)
    return Album(found, side)
