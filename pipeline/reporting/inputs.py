"""Inputs of every section of the report, thumbnails of packed samples among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.data.errors import BadImageError
from pipeline.data.packing.packed import Sample
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.data.user_images import thumbnail
from pipeline.reporting.headline import ranking
from pipeline.reporting.page import Tile, data_uri
from pipeline.reporting.palette import Palette, palette
from pipeline.reporting.results import ArmResults, ProjectResults


@dataclass(frozen=True)
class Album:
    """Chosen samples of a split by key."""

    samples: dict[str, Sample]
    side: int

    def tile(self, key: str, text: str | None = None, note: str = "") -> Tile | None:
        """Return an image with a text below it, or None if the split does not have it any more."""
        sample = self.samples.get(key)
        if sample is None:
            return None
        try:
            image = data_uri(thumbnail(sample.image, self.side), "image/webp")
        except BadImageError:
            return None
        return Tile(image, next(iter(sample.captions), key) if text is None else text, note)

    def caption(self, key: str, number: str = "") -> str | None:
        """Return a caption of a sample by its number; default: the first."""
        sample = self.samples.get(key)
        return sample.captions[int(number)] if sample and number and int(number) < len(sample.captions) else None

    def tiles(self, keys: Iterable[str]) -> tuple[Tile, ...]:
        """Return the tiles of those keys that exist."""
        return tuple(tile for key in keys if (tile := self.tile(key)))


@dataclass(frozen=True)
class ReportInputs:
    """Results of a project, its colors, and access to its images."""

    results: ProjectResults
    sample_count: int
    """Number of images shown with captions."""
    thumbnail_side: int

    @cached_property
    def colors(self) -> Palette:
        """Colors of target spaces and markers of students."""
        spaces = self.results.target_spaces
        methods = {name: spaces[name].method if name in spaces else name for name in self.results.targets}
        return palette(methods, self.results.students)

    @cached_property
    def best(self) -> ArmResults | None:
        """The arm with the highest accuracy on the first zero-shot set, if any was evaluated."""
        return next(iter(ranking(self.results)), None)

    @property
    def first_set(self) -> str:
        """The first zero-shot set that was scored; empty if there is none."""
        return next(iter(self.results.sets), "")

    def album(self, split: str, keys: Sequence[str]) -> Album | None:
        """Read some images of a packed split; None where the split is not packed."""
        packed, store = self.results.packed.get(split), self.results.stores.get(split)
        if packed is None:
            return None
        embedded = store is not None and store.manifest.source.get("packed") == packed.digest
        return Album(read_samples(packed, keys, store.keys if store and embedded else None), self.thumbnail_side)
