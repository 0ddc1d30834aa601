"""The synthetic sample: scenes that are rendered during packing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.data.sources.base import LoadedSample, Source
from pipeline.data.sources.class_names import load_templates
from pipeline.data.sources.listing import Choice, Entry, Listing, SamplePlan
from pipeline.project.code_versions import code_version

WORLD = "world"

RELATIONS = "relations-"
"""Prefix of the names of parts that are choice sets."""


class SyntheticSource(Source):
    """`part: train`, `val` or `badges`; a scene is a function of its number.

    Parts named after a medium (`print`, `painting`, `cartoon`, `collage`, `sketch`) are labelled like `badges`. Parts
    `relations-…` are choice sets: exact questions, each image with a counterpart in the same group.
    """

    source: Literal["sample"]
    part: Literal[
        "train", "val", "badges", "print", "painting", "cartoon", "collage", "sketch",
        "relations-train", "relations-val", "relations-unseen",
    ]  # fmt: skip
    images: int = Field(ge=1)
    templates: str | tuple[str, ...] = "simple"
    """Used by the labelled parts."""
    seed: int = 0

    def listing(self, key: str) -> Listing:
        """List the version of the rendering code, the only input."""
        documents = ((WORLD, f"version {code_version('synthetic')}"),)
        if self.part in ("train", "val") or self.part.startswith(RELATIONS):
            return Listing((), documents)
        from pipeline.data.synthetic.world import (
            BADGES,  # importing the drawings takes a quarter of a second, and every `index` is a new process
        )

        templates, more = load_templates(self.templates, f"{key}.templates")
        return Listing((), (*documents, *more), tuple(BADGES), templates)

    def plan(self, listing: Listing) -> SamplePlan:
        """Return the numbers."""
        numbers = range(self.images)
        return SamplePlan(tuple(Entry(f"{number:06d}", f"{self.part}/{number}", number=number) for number in numbers))

    def load(self, entry: Entry) -> LoadedSample:
        """Draw one scene."""
        if self.part.startswith(RELATIONS):
            from pipeline.data.synthetic.relations import draw_relation

            image, relation = draw_relation(self.part, entry.number, self.seed)
            return LoadedSample(
                image, choices=(Choice(relation.caption, (relation.foil,), relation.task, relation.group),)
            )
        from pipeline.data.synthetic.world import render_image

        scene = render_image(self.part, entry.number, self.seed)
        return LoadedSample(scene.image, scene.captions if scene.label is None else None, scene.label)

    def content_facts(self, listing: Listing) -> dict[str, str]:
        """The version of the rendering code, which decides a scene."""
        return {name: version for name, version in listing.metadata_files if name == WORLD}

    def locations(self, listing: Listing) -> frozenset[str]:
        """Scenes are identified by part and seed."""
        return frozenset({f"sample {self.part} {self.seed}"})
