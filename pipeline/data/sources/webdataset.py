"""WebDataset tars: img2dataset's downloads, CLIP_benchmark's sets and others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline.data.errors import BadSampleError
from pipeline.data.sources.base import FolderSource, LoadedSample, load_each
from pipeline.data.sources.caption_files import parse_captions
from pipeline.data.sources.class_names import load_templates, resolve_class_names
from pipeline.data.sources.entry_table import EntryTableBuilder
from pipeline.data.sources.listing import (
    Entry,
    FileSpan,
    Listing,
    SamplePlan,
    SkippedSample,
    make_key,
    scan,
)
from pipeline.data.sources.member_reader import MemberReader, open_members
from pipeline.data.sources.tar_reader import BadTarError, tar_members
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.remote.objects import ObjectBytes, object_state
from pipeline.project.remote.paths import Location, RemotePath

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "img", "image"})
TEXTS = ("txt", "json", "cls")


class WebDatasetSource(FolderSource):
    """`00000.tar`, …: an image with `.txt` or `.json` (captions) or `.cls` (its class index) of the same key."""

    source: Literal["tars"]
    tars: Location
    captions: bool = True
    """false: images only."""
    caption_field: str = "caption"
    """Field of the JSON if there is no `.txt`: a string or a list."""
    label_field: str = "label"
    """Field of the JSON if there is no `.cls`."""
    classes: str | tuple[str, ...] | None = None
    """Makes it a zero-shot set: a list, a file (CLIP_benchmark's `classnames.txt`) or a list by name."""
    templates: str | tuple[str, ...] = "simple"

    @property
    def folder(self) -> Path | RemotePath:
        """The folder of tars."""
        return self.tars

    def listing(self, key: str) -> Listing:
        """List the tars; their content is read by `pack`."""
        files = tuple((name, size) for name, size in scan(self.tars, f"{key}.tars") if name.endswith(".tar"))
        if not files:
            raise UsageError(f"params: '{key}.tars': {self.tars} holds no .tar files")
        if self.classes is None:
            return Listing(files)
        classes, of_classes = resolve_class_names(self.classes, f"{key}.classes")
        templates, of_templates = load_templates(self.templates, f"{key}.templates")
        return Listing(files, (*of_classes, *of_templates), classes, templates)

    def plan(self, listing: Listing) -> SamplePlan:
        """Read the headers of every tar.

        Raises:
            BadTarError: a tar is damaged, unsorted, or unsafe.
        """
        table = EntryTableBuilder(listing.files)
        halves: list[tuple[int, int, SkippedSample]] = []
        for number, (tar, size) in enumerate(listing.files):
            self._require_unchanged(self.tars / tar, size)
            for name, members in _samples(self.tars, tar, size):
                if reason := self._missing(members):
                    halves.append((len(table), len(halves), SkippedSample(make_key(name), f"{tar}:{name}", reason)))
                else:
                    table.add(number, name, tuple(members.values()))
        entries, duplicates = table.build()
        last = len(halves)  # the other half of the same sample was read before
        skipped = [(place, last, _duplicate(entry.key, entry.origin, first)) for place, entry, first in duplicates]
        for place, order, half in halves:
            half_entry = entries.find(half.key)
            earlier = half_entry is not None and half_entry[0] < place
            skipped.append(
                (place, order, _duplicate(half.key, half.origin, half_entry[1]) if half_entry and earlier else half)
            )
        return SamplePlan(entries, tuple(skip for _, _, skip in sorted(skipped, key=lambda skip: skip[:2])), True)

    def load(self, entry: Entry) -> LoadedSample:
        """Read one sample."""
        with open_members(self.tars) as reader:
            return self._load(reader, entry)

    def load_in_order(self, entries: Iterable[Entry]) -> Iterator[LoadedSample | BadSampleError]:
        """Read some samples, with one open tar while they lie in it."""
        with open_members(self.tars) as reader:
            yield from load_each(partial(self._load, reader), entries)

    def _load(self, reader: MemberReader, entry: Entry) -> LoadedSample:
        image, *texts = reader.read(entry.members)
        beside = {member.extension: text for member, text in zip(entry.members[1:], texts, strict=True)}
        document = _json(beside["json"]) if "json" in beside else {}
        if self.classes is not None:
            return LoadedSample(image, label=self._label(beside, document))
        return LoadedSample(image, self._captions(beside, document) if self.captions else None)

    def _require_unchanged(self, path: Path | RemotePath, listed: int) -> None:
        """Refuse a tar of another size, or an object of another version, than was listed; raises PipelineError."""
        try:
            if isinstance(path, Path):
                same = path.stat().st_size == listed
            else:
                same = object_state(path) == (listed.state if isinstance(listed, ObjectBytes) else (listed, ""))
        except FileNotFoundError:
            raise PipelineError(f"{path}: gone since it was listed. Run `index` again.") from None
        if not same:
            raise PipelineError(f"{path}: not the {listed} bytes that were listed. Run `index` again.")

    def _missing(self, members: dict[str, FileSpan]) -> str:
        """Return the reason for which a sample is incomplete, or None."""
        if "image" not in members:
            missing = "image"
        elif self.classes is not None and not members.keys() & {"cls", "json"}:
            missing = "label (.cls, .json)"
        elif self.classes is None and self.captions and not members.keys() & {"txt", "json"}:
            missing = "caption (.txt, .json)"
        else:
            return ""
        return f"half a sample: no {missing}, only {', '.join(members)}"

    def _captions(self, beside: dict[str, bytes], document: dict[str, Any]) -> tuple[str, ...]:
        if "txt" in beside:
            return tuple(beside["txt"].decode("utf-8", "replace").splitlines())
        captions = parse_captions(document.get(self.caption_field))
        if captions is None:
            raise BadSampleError(f"its JSON has no captions under '{self.caption_field}'")
        return tuple(captions)

    def _label(self, beside: dict[str, bytes], document: dict[str, Any]) -> int:
        label = beside["cls"].strip() if "cls" in beside else document.get(self.label_field)
        if isinstance(label, bytes) and label.isdigit() and len(label) < 10:
            label = int(label)
        if not isinstance(label, int) or isinstance(label, bool) or label < 0:
            raise BadSampleError(f"its label is no number: {str(label)[:40]}")
        return label


def _duplicate(key: str, origin: str, first: Entry) -> SkippedSample:
    return SkippedSample(key, origin, f"duplicate key: {first.origin} has it already")


def _samples(folder: Path | RemotePath, tar: str, size: int) -> Iterator[tuple[str, dict[str, FileSpan]]]:
    """Yield each key with its image first and its texts by extension; other members are ignored."""
    keys: set[str] = set()
    for name, group in _adjacent(tar_members(folder, tar, size)):
        if name in keys:
            raise BadTarError(f"{folder / tar}: unsorted: '{name}' comes back after others. Sort its members by name.")
        keys.add(name)
        image = next((member for extension, member in group.items() if extension in IMAGES), None)
        members = {"image": image} if image else {}
        for text in TEXTS:
            if text in group:
                members[text] = group[text]
        yield name, members


def _adjacent(members: Iterable[FileSpan]) -> Iterator[tuple[str, dict[str, FileSpan]]]:
    """Yield runs of members with one key; as in WebDataset, a key ends at the first dot of the name."""
    current, group = "", dict[str, FileSpan]()
    for tar, path, offset, size in members:
        folder, slash, name = path.rpartition("/")
        stem, dot, extension = name.partition(".")
        if not stem or not dot:
            continue  # hidden, or without extension: WebDataset ignores them too
        key, extension = folder + slash + stem, extension.lower()
        if key != current and group:
            yield current, group
            group = {}
        current = key
        if extension in group:
            raise BadTarError(f"{tar}: '{path}' is in it twice. Fetch it again.")
        group[extension] = FileSpan(tar, extension, offset, size)
    if group:
        yield current, group


def _json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f"its JSON cannot be read: {str(error)[:80]}") from None
    return document if isinstance(document, dict) else {}
