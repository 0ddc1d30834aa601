"""Files of a source by name and size, its samples by key, and skipped samples."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, MissingError, StaleError
from pipeline.project.errors import UsageError
from pipeline.project.remote.objects import ObjectBytes, list_objects
from pipeline.project.remote.paths import RemotePath


class Choice(NamedTuple):
    """One caption of an image with its foils."""

    caption: str
    foils: tuple[str, ...]
    task: str
    """Task by which choices are counted."""
    group: str = ""
    """Images of one group and task are counterparts: each other's wrong answers; empty: no group."""


KEY_LENGTH = 90
"""Longest key: with `.json` it fits the 100 bytes of a name in a tar header."""
_PLAIN = re.compile(r"(?:(?!__)[A-Za-z0-9_~-]+/)*(?!__)[A-Za-z0-9_~-]+")
NOT_REGULAR = -1
"""Listed size of files that are not regular: a broken link, a pipe, a socket, a device."""


class FileSpan(NamedTuple):
    """A span of bytes in a file: a whole file, or one member of a tar."""

    file: str
    extension: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample before its bytes are read: their location, and known annotations."""

    key: str
    origin: str
    """Name in the source: a file name, an image id, a row."""
    members: tuple[FileSpan, ...] = ()
    number: int = 0
    """Row, in sources of arrays."""
    captions: tuple[str, ...] = ()
    label: int | None = None
    choices: tuple[Choice, ...] = ()

    def facts(self) -> list[Any]:
        """Return all its fields, for a fingerprint."""
        facts = [self.key, self.origin, self.members, self.number, self.captions, self.label]
        versions = [member.size.version for member in self.members if isinstance(member.size, ObjectBytes)]
        return [*facts, *([self.choices] if self.choices else []), *([versions] if versions else [])]


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A sample that is not packed, and the reason."""

    key: str
    origin: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Output of the index stage, from which changes of a source are detected."""

    files: tuple[tuple[str, int], ...]
    """Names and sizes, sorted; sizes of objects in object storage are `ObjectBytes`."""
    metadata_files: tuple[tuple[str, str], ...] = ()
    """Names and SHA-256 of metadata files: captions, class lists, rendering code."""
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    domains: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For a labelled split of several sources: the name and templates of each."""
    caption_files: tuple[tuple[str, str], ...] = ()
    """Names and SHA-256 of files of additional captions, which are packed next to the shards."""


@dataclass(frozen=True)
class SamplePlan:
    """All samples of a source, and those already skipped."""

    entries: Sequence[Entry]
    skipped: tuple[SkippedSample, ...] = field(default=())
    sorted_by_key: bool = False

    def entries_by_key(self) -> Sequence[Entry]:
        """Return the entries sorted by key, the order of packing."""
        return self.entries if self.sorted_by_key else sorted(self.entries, key=lambda entry: entry.key)


def scan(folder: Path | RemotePath, key: str) -> tuple[tuple[str, int], ...]:
    """Return the sorted names (below the folder, with `/`) and sizes of all files except hidden ones.

    Links are followed; a folder that is reached twice is listed once.

    Raises:
        UsageError: no such folder, an unreadable one, or one without files; names the parameter `key`.
        RemoteError: object storage denies access or does not answer.
    """
    try:
        files = sorted(_objects(folder) if isinstance(folder, RemotePath) else _walk(folder, "", set()))
    except NotADirectoryError:
        raise UsageError(f"params: '{key}': {folder} is a file, expected a folder") from None
    except FileNotFoundError:
        raise UsageError(f"params: '{key}': no folder {folder}") from None
    except OSError as error:
        raise UsageError(f"params: '{key}': {error.filename}: cannot be read: {error.strerror}") from None
    if not files:
        raise UsageError(f"params: '{key}': {folder} holds no files")
    return tuple(files)


def _objects(folder: RemotePath) -> Iterable[tuple[str, int]]:
    for name, state in list_objects(folder).items():
        if not any(part.startswith(".") for part in name.split("/")):
            yield name, ObjectBytes(*state)


def _walk(folder: Path, prefix: str, visited: set[tuple[int, int]]) -> Iterable[tuple[str, int]]:
    at = folder.stat()
    if (at.st_dev, at.st_ino) in visited:
        return
    visited.add((at.st_dev, at.st_ino))
    with os.scandir(folder) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.is_dir():
                yield from _walk(Path(item.path), f"{prefix}{item.name}/", visited)
            else:
                yield prefix + item.name, _size(item)


def _size(item: os.DirEntry[str]) -> int:
    try:
        status = item.stat()
    except OSError:
        return NOT_REGULAR
    return status.st_size if stat.S_ISREG(status.st_mode) else NOT_REGULAR


def make_key(name: str) -> str:
    """Return a name as a key: ASCII, no dots (a WebDataset key ends at the first), at most 90 characters.

    Letters, digits, `_ - ~ /` are kept, other bytes become `%XX`, as does the first of two leading underscores
    (WebDataset ignores `__names__`). A longer name is truncated and ends in its SHA-256.
    """
    if _PLAIN.fullmatch(name):
        return truncate_key(name)
    key = quote(os.fsencode(name), safe="/").replace(".", "%2E")
    key = "/".join(f"%5F{part[1:]}" if part.startswith("__") else part for part in key.split("/"))
    return truncate_key(key)


def truncate_key(key: str) -> str:
    """Return a key unchanged, or truncated to the maximum length with the SHA-256 of the whole at its end."""
    if len(key) <= KEY_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"{key[: KEY_LENGTH - 17].rstrip('/')}-{digest}"


def entries_from_files(files: Iterable[tuple[str, int]]) -> SamplePlan:
    """Return one entry per file; its key is the name without extension, or with it if two would be equal."""
    entries: dict[str, Entry] = {}
    skipped = []
    for name, size in files:
        stem, extension = os.path.splitext(name)  # noqa: PTH122  a name, not a path of this machine
        key = make_key(stem)
        key = make_key(name) if key in entries else key
        if size == NOT_REGULAR:
            skipped.append(SkippedSample(key, name, "no regular file: a broken link, a pipe or a device"))
        elif key in entries:
            skipped.append(SkippedSample(key, name, f"has the same key as {entries[key].origin}: rename one"))
        else:
            member = FileSpan(name, extension.lower().lstrip("."), 0, size)
            entries[key] = Entry(key, name, (member,))
    return SamplePlan(tuple(entries.values()), tuple(skipped))


def save_listing(path: Path, source: dict[str, Any], listing: Listing) -> None:
    """Write the listing of a source, and the source's parameters."""
    versions = {name: size.version for name, size in listing.files if isinstance(size, ObjectBytes)}
    write_checksummed_json(
        path,
        {
            "source": source,
            "files": dict(listing.files),
            "documents": dict(listing.metadata_files),
            "classes": list(listing.classes),
            "templates": list(listing.templates),
            **({"domains": {name: list(own) for name, own in listing.domains}} if listing.domains else {}),
            **({"versions": versions} if versions else {}),
            **({"caption_files": dict(listing.caption_files)} if listing.caption_files else {}),
        },
    )


def load_listing(path: Path, source: dict[str, Any]) -> Listing:
    """Read the listing of a source.

    Raises:
        MissingError: `index` has not run.
        StaleError: it listed another source.
        DamagedError: the file was not written by `index`.
    """
    again = f"Run `python cli.py index --split {path.stem}` again."
    try:
        document = read_checksummed_json(path)
        files, documents = (tuple(sorted(document[name].items())) for name in ("files", "documents"))
        if versions := document.get("versions", {}):
            sizes = {name: ObjectBytes(size, versions[name]) for name, size in files if name in versions}
            files = tuple((name, sizes.get(name, size)) for name, size in files)
        domains = tuple((name, tuple(own)) for name, own in document.get("domains", {}).items())
        captions = tuple(sorted(document.get("caption_files", {}).items()))
        listing = Listing(files, documents, tuple(document["classes"]), tuple(document["templates"]), domains, captions)
        before = document["source"]
    except MissingError:
        raise MissingError(f"{path}: not listed yet. {again}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{path}: not a list that `index` wrote. {again}") from None
    if before != source:
        raise StaleError(f"{path}: lists {before}, but the parameters say {source}. {again}")
    return listing
