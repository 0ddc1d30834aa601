"""Several sources as one split, each under a name of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, TypeVar

from pydantic import Field, SerializeAsAny

from pipeline.data.sources.base import LoadedSample, Source
from pipeline.data.sources.listing import Entry, Listing, SamplePlan, SkippedSample, truncate_key
from pipeline.project.errors import UsageError

V = TypeVar("V")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class CompositeSource(Source):
    """`sources: {flickr8k: {source: coco, …}, cc3m: {source: tars, …}}`; the names stand before the keys."""

    source: Literal["several"]
    sources: dict[str, SerializeAsAny[Source]] = Field(min_length=1)

    def listing(self, key: str) -> Listing:
        """List each source under its name."""
        files, documents = [], []
        for name, source in self.sources.items():
            if not _NAME.fullmatch(name):
                raise UsageError(f"params: '{key}.sources': '{name}': expected letters, digits, - and _")
            part = source.listing(f"{key}.sources.{name}")
            if part.classes:
                raise UsageError(
                    f"params: '{key}.sources.{name}': a zero-shot set is a split of its own; to train on its images "
                    "without their labels, read them with `source: images`"
                )
            files += [(f"{name}/{file}", size) for file, size in part.files]
            documents += [(f"{name}/{document}", sha) for document, sha in part.metadata_files]
        return Listing(tuple(sorted(files)), tuple(sorted(documents)))

    def plan(self, listing: Listing) -> SamplePlan:
        """Plan each source, with its name before its keys: two sources may use the same ones."""
        entries, skipped = [], []
        for name, source, part in self.parts(listing):
            plan = source.plan(part)
            entries += [
                replace(e, key=truncate_key(f"{name}/{e.key}"), origin=f"{name}:{e.origin}") for e in plan.entries
            ]
            skipped += [
                SkippedSample(truncate_key(f"{name}/{s.key}"), f"{name}:{s.origin}", s.reason) for s in plan.skipped
            ]
        return SamplePlan(tuple(entries), tuple(skipped))

    def load(self, entry: Entry) -> LoadedSample:
        """Let the source that it came from load an entry."""
        name, _, origin = entry.origin.partition(":")
        return self.sources[name].load(replace(entry, origin=origin))

    def content_facts(self, listing: Listing) -> dict[str, str]:
        """Return what decides each of them."""
        return {f"{n}/{name}": sha for n, s, part in self.parts(listing) for name, sha in s.content_facts(part).items()}

    def locations(self, listing: Listing) -> frozenset[str]:
        """Return the places of all of them."""
        return frozenset[str]().union(*(source.locations(part) for _, source, part in self.parts(listing)))

    def parts(self, listing: Listing) -> list[tuple[str, Source, Listing]]:
        """Return each source with what was listed of it."""
        return [
            (name, source, Listing(_below(name, listing.files), _below(name, listing.metadata_files)))
            for name, source in self.sources.items()
        ]


def _below(name: str, items: tuple[tuple[str, V], ...]) -> tuple[tuple[str, V], ...]:
    prefix = f"{name}/"
    return tuple((item.removeprefix(prefix), value) for item, value in items if item.startswith(prefix))
