"""Base classes of sources: list files, plan samples, load a sample."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from pipeline.data.errors import BadSampleError
from pipeline.data.sources.caption_files import CaptionFileParams
from pipeline.data.sources.listing import Choice, Entry, FileSpan, Listing, SamplePlan
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.input_files import MAX_CAPTIONS_BYTES, MAX_IMAGE_BYTES, read_input
from pipeline.project.params import ParamsSection
from pipeline.project.remote.objects import read_listed
from pipeline.project.remote.paths import RemotePath

if TYPE_CHECKING:
    import numpy as np  # importing it takes a fifth of a second, and `index` does not need it


class LoadedSample(NamedTuple):
    """Bytes or pixels of a sample, with its annotations."""

    image_data: bytes | np.ndarray
    captions: tuple[str, ...] | None = None
    """None if the source has no captions; an empty list marks a sample that should have some."""
    label: int | None = None
    choices: tuple[Choice, ...] = ()
    """In a choice set; `captions` are the true ones."""


class Source(ParamsSection, ABC):
    """Source of a split. `key` is its parameter, for messages."""

    caption_files: Mapping[str, CaptionFileParams] = Field(default_factory=dict, exclude=True)
    """Additional captions of the same images, by name; packed next to the shards, whose bytes they do not change."""

    @abstractmethod
    def listing(self, key: str) -> Listing:
        """Return the present files; raises UsageError if they cannot be a split."""

    @abstractmethod
    def plan(self, listing: Listing) -> SamplePlan:
        """Return every listed sample, without reading images."""

    @abstractmethod
    def load(self, entry: Entry) -> LoadedSample:
        """Read one sample.

        Raises:
            BadSampleError: the sample is skipped.
            PipelineError: it changed since it was listed.
        """

    def load_in_order(self, entries: Iterable[Entry]) -> Iterator[LoadedSample | BadSampleError]:
        """Read some samples; the error of one that is skipped takes its place. Raises PipelineError as `load` does."""
        return load_each(self.load, entries)

    @abstractmethod
    def locations(self, listing: Listing) -> frozenset[str]:
        """Return the locations of its images, to check that two splits share none."""

    def image_span(self, entry: Entry) -> tuple[Path | RemotePath, FileSpan] | None:
        """Return the folder and file span of an entry's image, or None if it is not in a file."""
        return None

    def content_facts(self, listing: Listing) -> dict[str, str]:
        """Return further facts that decide a sample's bytes, besides the parameters and the entry; usually none."""
        return {}


def load_each(
    load: Callable[[Entry], LoadedSample], entries: Iterable[Entry]
) -> Iterator[LoadedSample | BadSampleError]:
    """Return an iterator over loaded samples, with the error of each that is skipped in its place."""
    return map(partial(load_or_error, load), entries)


def load_or_error(load: Callable[[Entry], LoadedSample], entry: Entry) -> LoadedSample | BadSampleError:
    """Return a loaded sample, or the error for which it is skipped."""
    try:
        return load(entry)
    except BadSampleError as error:
        return error


class FolderSource(Source):
    """Files below a folder."""

    @property
    @abstractmethod
    def folder(self) -> Path | RemotePath:
        """The base folder of the names in its listing."""

    def load(self, entry: Entry) -> LoadedSample:
        """Read one file, with the captions and label of its entry."""
        return LoadedSample(self.read(entry))

    def image_span(self, entry: Entry) -> tuple[Path | RemotePath, FileSpan] | None:
        """Return the span of the first member, which is the image."""
        return self.folder, entry.members[0]

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of an entry that is one whole file.

        Raises:
            BadSampleError: the file cannot be read.
            PipelineError: it does not exist any more, or its size differs from the listing.
            RemoteError: object storage denies access or does not answer.
        """
        member = entry.members[0]
        path = self.folder / member.file
        try:
            data = _read_listed(path, member.size)
        except FileNotFoundError:
            raise PipelineError(f"{path}: gone since it was listed. Run `index` again.") from None
        except OSError as error:
            raise BadSampleError(f"cannot be read: {error.strerror}") from None
        if len(data) != member.size:
            raise PipelineError(f"{path}: {len(data)} bytes, but {member.size} were listed. Run `index` again.")
        return data

    def locations(self, listing: Listing) -> frozenset[str]:
        """Return the paths of its files."""
        folder = self.folder if isinstance(self.folder, RemotePath) else self.folder.resolve()
        return frozenset(f"{folder}/{name}" for name, _ in listing.files)


def _read_listed(path: Path | RemotePath, size: int) -> bytes:
    """Return a whole file, with a single request to object storage; raises as `read_input` does."""
    if isinstance(path, RemotePath) and size <= MAX_IMAGE_BYTES:
        return read_listed(path, size)
    return read_input(path, MAX_IMAGE_BYTES)


def read_json(path: Path | RemotePath, key: str) -> tuple[Any, str]:
    """Return a JSON file's value and its SHA-256.

    Raises:
        UsageError: no such file, or not JSON; names the parameter `key`.
    """
    data = read_metadata_file(path, key)
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"params: '{key}': {path}: not JSON: {error}") from None


def read_metadata_file(path: Path | RemotePath, key: str) -> bytes:
    """Return a small file such as captions or class names.

    Raises:
        UsageError: it cannot be read; names the parameter `key`.
    """
    try:
        return read_input(path, MAX_CAPTIONS_BYTES)
    except FileNotFoundError:
        raise UsageError(f"params: '{key}': no file {path}") from None
    except OSError as error:
        raise UsageError(f"params: '{key}': {path}: cannot be read: {error.strerror}") from None


def refuse_changed(path: Path | RemotePath, sha256: str, listing: Listing) -> None:
    """Refuse captions that changed since they were listed, because they may not match the images any more.

    Raises:
        PipelineError: the SHA-256 of the file differs from the one that `index` recorded.
    """
    if dict(listing.metadata_files).get(path.name) != sha256:
        raise PipelineError(f"{path}: changed since it was listed. Run `index` again.")


def check_images_exist(
    named: Container[str], names: Sequence[str], folder: Path | RemotePath, captions: Path | RemotePath, key: str
) -> None:
    """Refuse captions of images that do not exist.

    Raises:
        UsageError: the number of missing images, and the first of them.
    """
    missing = [name for name in names if name not in named]
    if missing:
        raise UsageError(
            f"params: '{key}': {captions} names {len(names)} images, and {len(missing)} of them are not in {folder}, "
            f"the first: {missing[0]!r}. Is this the folder that belongs to these captions?"
        )
