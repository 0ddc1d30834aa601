"""What every source can do: list itself, plan its samples, load one."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.data.errors import BadSampleError
from pipeline.data.sources.caption_files import CaptionFileParams
from pipeline.data.sources.listing import Choice, Entry, FileSpan, Listing, SamplePlan
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.input_files import MAX_CAPTIONS_BYTES, MAX_IMAGE_BYTES, read_input
from pipeline.project.params import ParamsSection

if TYPE_CHECKING:
    import numpy as np  # a fifth of a second of each `index`, which needs none


@dataclass(frozen=True)
class LoadedSample:
    """A sample's bytes or pixels, with what is said about it."""

    image_data: bytes | np.ndarray
    captions: tuple[str, ...] | None = None
    """None where the source has none; an empty one is a sample that should have had some."""
    label: int | None = None
    choices: tuple[Choice, ...] = ()
    """Of a choice set; its captions are those that are true."""


class Source(ParamsSection, ABC):
    """Where a split comes from. `key` is the parameter it stands under, for messages."""

    caption_files: Mapping[str, CaptionFileParams] = Field(default_factory=dict, exclude=True)
    """Further captions of the same images, by name: packed beside the shards, whose bytes they do not decide."""

    @abstractmethod
    def listing(self, key: str) -> Listing:
        """Return what lies on the disk now; raises UsageError where that cannot be a split."""

    @abstractmethod
    def plan(self, listing: Listing) -> SamplePlan:
        """Return every sample that was listed; nothing is read of the images."""

    @abstractmethod
    def load(self, entry: Entry) -> LoadedSample:
        """Read one sample.

        Raises:
            BadSampleError: this one cannot be used.
            PipelineError: it has changed since it was listed.
        """

    @abstractmethod
    def locations(self, listing: Listing) -> frozenset[str]:
        """Return where its images lie, so that two splits can be told to share none."""

    def image_span(self, entry: Entry) -> tuple[Path, FileSpan] | None:
        """Return the folder and the span of a file that hold an entry's image, or nothing where no file does."""
        return None

    def content_facts(self, listing: Listing) -> dict[str, str]:
        """Return what decides a sample's bytes beside the source's parameters and its entry: usually nothing."""
        return {}


class FolderSource(Source):
    """Files below a folder."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder that the names of its listing are below."""

    def load(self, entry: Entry) -> LoadedSample:
        """Read one file, with the captions and the label that the plan gave it."""
        return LoadedSample(self.read(entry))

    def image_span(self, entry: Entry) -> tuple[Path, FileSpan] | None:
        """Return where the first member lies, which is the image."""
        return self.folder, entry.members[0]

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of an entry that is one whole file.

        Raises:
            BadSampleError: the file cannot be read.
            PipelineError: it is gone, or another size than was listed.
        """
        member = entry.members[0]
        path = self.folder / member.file
        try:
            data = read_input(path, MAX_IMAGE_BYTES)
        except FileNotFoundError:
            raise PipelineError(f"{path}: gone since it was listed. Run `index` again.") from None
        except OSError as error:
            raise BadSampleError(f"cannot be read: {error.strerror}") from None
        if len(data) != member.size:
            raise PipelineError(f"{path}: {len(data)} bytes, but {member.size} were listed. Run `index` again.")
        return data

    def locations(self, listing: Listing) -> frozenset[str]:
        """Return the paths of its files."""
        folder = self.folder.resolve()
        return frozenset(f"{folder}/{name}" for name, _ in listing.files)


def read_byte_range(folder: Path, members: Sequence[FileSpan]) -> list[bytes]:
    """Return the bytes of some members of one file, which lie side by side, in one read.

    Raises:
        PipelineError: the file is gone, or shorter than it was.
    """
    path = folder / members[0].file
    start = min(member.offset for member in members)
    end = max(member.offset + member.size for member in members)
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), end - start, start)
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read any more: {error.strerror}. Run `index` again.") from None
    if len(data) != end - start:
        raise PipelineError(f"{path}: shorter than it was. Run `index` again.")
    return [data[member.offset - start :][: member.size] for member in members]


def read_json(path: Path, key: str) -> tuple[Any, str]:
    """Return a JSON file's value and its SHA-256.

    Raises:
        UsageError: no such file, or not JSON; names the parameter `key`.
    """
    data = read_metadata_file(path, key)
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"params: '{key}': {path}: not JSON: {error}") from None


def read_metadata_file(path: Path, key: str) -> bytes:
    """Return a small file that decides a lot, such as captions or class names.

    Raises:
        UsageError: it cannot be read; names the parameter `key`.
    """
    try:
        return read_input(path, MAX_CAPTIONS_BYTES)
    except FileNotFoundError:
        raise UsageError(f"params: '{key}': no file {path}") from None
    except OSError as error:
        raise UsageError(f"params: '{key}': {path}: cannot be read: {error.strerror}") from None


def refuse_changed(path: Path, sha256: str, listing: Listing) -> None:
    """Refuse captions that are not those that were listed: images and captions would no longer fit each other.

    Raises:
        PipelineError: the file has another SHA-256 than `index` wrote down.
    """
    if dict(listing.metadata_files).get(path.name) != sha256:
        raise PipelineError(f"{path}: changed since it was listed. Run `index` again.")


def check_images_exist(named: Container[str], wanted: Sequence[str], folder: Path, captions: Path, key: str) -> None:
    """Refuse captions of images that are not there.

    Raises:
        UsageError: how many are missing, and the first of them.
    """
    missing = [name for name in wanted if name not in named]
    if missing:
        raise UsageError(
            f"params: '{key}': {captions} names {len(wanted)} images, and {len(missing)} of them are not in {folder}, "
            f"the first: {missing[0]!r}. Is this the folder that belongs to these captions?"
        )
