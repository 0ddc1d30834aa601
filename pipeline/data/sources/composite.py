"""Several named sources as one split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SerializeAsAny

from pipeline.data.sources.base import LoadedSample, Source
from pipeline.data.sources.listing import Entry, FileSpan, Listing, SamplePlan, SkippedSample, truncate_key
from pipeline.project.errors import UsageError
from pipeline.project.remote.paths import RemotePath

V = TypeVar("V")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class CompositeSource(Source):
    """`sources: {flickr8k: {source: coco, …}, cc3m: {source: tars, …}}`; each key begins with the name of its source.

    Labelled sources with the same classes are one labelled split of several *domains*:
    `sources: {photo: …, sketch: …}`. A sample's domain is the source in its key. The text vector of a class uses the
    templates of all sources, within one domain only those of its source.
    """

    source: Literal["several"]
    sources: dict[str, SerializeAsAny[Source]] = Field(min_length=1)

    def listing(self, key: str) -> Listing:
        """List each source under its name."""
        parts: dict[str, Listing] = {}
        for name, source in self.sources.items():
            if not _NAME.fullmatch(name):
                raise UsageError(f"params: '{key}.sources': '{name}': expected letters, digits, - and _")
            parts[name] = source.listing(f"{key}.sources.{name}")
        classes = _common_classes(parts, f"{key}.sources")
        files = [(f"{name}/{file}", size) for name, part in parts.items() for file, size in part.files]
        documents = [
            (f"{name}/{document}", sha) for name, part in parts.items() for document, sha in part.metadata_files
        ]
        listing = Listing(tuple(sorted(files)), tuple(sorted(documents)))
        if not classes:
            return listing
        templates = tuple(dict.fromkeys(template for part in parts.values() for template in part.templates))
        domains = tuple((name, part.templates) for name, part in sorted(parts.items()))
        return replace(listing, classes=classes, templates=templates, domains=domains)

    def plan(self, listing: Listing) -> SamplePlan:
        """Plan each source, with its name before its keys, which may repeat between sources."""
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
        """Load an entry with its source."""
        name, _, origin = entry.origin.partition(":")
        return self.sources[name].load(replace(entry, origin=origin))

    def image_span(self, entry: Entry) -> tuple[Path | RemotePath, FileSpan] | None:
        """Return the span of the image in its source."""
        name, _, origin = entry.origin.partition(":")
        return self.sources[name].image_span(replace(entry, origin=origin))

    def content_facts(self, listing: Listing) -> dict[str, str]:
        """Return the facts of all sources."""
        return {f"{n}/{name}": sha for n, s, part in self.parts(listing) for name, sha in s.content_facts(part).items()}

    def locations(self, listing: Listing) -> frozenset[str]:
        """Return the locations of all sources."""
        return frozenset[str]().union(*(source.locations(part) for _, source, part in self.parts(listing)))

    def parts(self, listing: Listing) -> list[tuple[str, Source, Listing]]:
        """Return each source with its part of the listing."""
        templates = dict(listing.domains)
        parts = []
        for name, source in self.sources.items():
            below = _below(name, listing.files), _below(name, listing.metadata_files)
            parts.append((name, source, Listing(*below, listing.classes, templates.get(name, ()))))
        return parts


def _common_classes(parts: Mapping[str, Listing], key: str) -> tuple[str, ...]:
    """Return the classes that all parts share; empty if no part has classes.

    Raises:
        UsageError: only some parts have classes, or two parts differ.
    """
    (first, first_classes), *others = ((name, part.classes) for name, part in parts.items())
    for name, classes in others:
        if bool(classes) != bool(first_classes):
            labeled, plain = (name, first) if classes else (first, name)
            raise UsageError(
                f"params: '{key}.{labeled}' has classes and '{key}.{plain}' none. A split has labels throughout or "
                "nowhere: to train on a labelled set's images without their labels, read them with `source: images`"
            )
        if classes != first_classes:
            place = next((i for i, (a, b) in enumerate(zip(classes, first_classes, strict=False)) if a != b), None)
            what = (
                f"class {place} is '{classes[place]}' and '{first_classes[place]}'"
                if place is not None
                else f"{len(classes)} and {len(first_classes)} classes"
            )
            raise UsageError(
                f"params: '{key}.{name}' and '{key}.{first}' have different classes: {what}. Domains of one split "
                "have equal lists; `classes:` gives folders of other names theirs"
            )
    return first_classes


def _below(name: str, items: tuple[tuple[str, V], ...]) -> tuple[tuple[str, V], ...]:
    prefix = f"{name}/"
    return tuple((item.removeprefix(prefix), value) for item, value in items if item.startswith(prefix))
