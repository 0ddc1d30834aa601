"""The embedded sample: scenes that are drawn while they are packed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from cache.fingerprint import sha256
from pipeline.data.classes import named_templates
from pipeline.data.listing import Entry, Listing, Plan
from pipeline.data.reading import Loaded, Source


class Drawn(Source):
    """`part: train`, `val` or `badges`; the number of a scene is all that it is made of."""

    source: Literal["sample"]
    part: Literal["train", "val", "badges"]
    images: int = Field(ge=1)
    templates: str | tuple[str, ...] = "simple"
    """Used by `badges`, the zero-shot set."""
    seed: int = 0

    def listing(self, key: str) -> Listing:
        """List the drawing code: what else could change?"""
        code = sorted(Path(__file__).parent.glob("sample_*.py"))
        documents = tuple((path.name, sha256(path)) for path in code)
        if self.part != "badges":
            return Listing((), documents)
        from pipeline.data.sample_world import (
            BADGES,  # the drawings cost a quarter of a second, and each `index` a start
        )

        templates, more = named_templates(self.templates, f"{key}.templates")
        return Listing((), (*documents, *more), tuple(BADGES), templates)

    def plan(self, listing: Listing) -> Plan:
        """Return the numbers."""
        numbers = range(self.images)
        return Plan(tuple(Entry(f"{number:06d}", f"{self.part}/{number}", number=number) for number in numbers))

    def load(self, entry: Entry) -> Loaded:
        """Draw one scene."""
        from pipeline.data.sample_world import draw

        scene = draw(self.part, entry.number, self.seed)
        return Loaded(scene.image, scene.captions if scene.label is None else None, scene.label)

    def decides(self, listing: Listing) -> dict[str, str]:
        """A scene is what the code draws."""
        return {name: sha for name, sha in listing.documents if name.endswith(".py")}

    def places(self, listing: Listing) -> frozenset[str]:
        """Scenes are told apart by part and seed."""
        return frozenset({f"sample {self.part} {self.seed}"})
