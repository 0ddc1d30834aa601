"""Folders as sources: one folder per class, a folder of images, or images with a table of captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from pipeline.data.sources.base import (
    FolderSource,
    LoadedSample,
    check_images_exist,
    read_metadata_file,
    refuse_changed,
)
from pipeline.data.sources.caption_files import read_caption_table
from pipeline.data.sources.class_names import folder_class_names, load_templates
from pipeline.data.sources.listing import Entry, Listing, SamplePlan, SkippedSample, entries_from_files, scan
from pipeline.data.sources.name_lists import select_listed
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.remote.paths import Location, RemotePath


class LabeledImageFolder(FolderSource):
    """`cifar10/test/airplane/0001.png`: sorted folders are the labels, their names the classes."""

    source: Literal["class-folder"]
    images: Location
    templates: str | tuple[str, ...] = "simple"
    classes: str | tuple[str, ...] | None = None
    """Class names in the order of the sorted folders: a list, a file or a list by name; default: the folders' names."""
    splits: Location | tuple[Location, ...] | None = Field(default=None, exclude_if=lambda lists: lists is None)
    """Lists of names that select files. Every folder stays a class."""

    @property
    def folder(self) -> Path | RemotePath:
        """The folder of classes."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List all files, and name the classes."""
        files = scan(self.images, f"{key}.images")
        folders = _class_folders(files)
        if not folders:
            raise UsageError(f"params: '{key}.images': {self.images} holds no folders, expected one for each class")
        classes, documents = folder_class_names(self.classes, folders, f"{key}.classes")
        templates, more = load_templates(self.templates, f"{key}.templates")
        lists: tuple[tuple[str, str], ...] = ()
        if self.splits is not None:
            paths = self.splits if isinstance(self.splits, tuple) else (self.splits,)
            files, lists = select_listed(files, paths, self.images, f"{key}.splits")
        return Listing(files, (*documents, *more, *lists), classes, templates)

    def plan(self, listing: Listing) -> SamplePlan:
        """Label each file by its folder."""
        plan = entries_from_files(listing.files)
        labels = {folder: label for label, folder in enumerate(self._folders(listing))}
        inside = (e for e in plan.entries if "/" in e.origin)
        outside = (
            SkippedSample(e.key, e.origin, "lies in no class's folder") for e in plan.entries if "/" not in e.origin
        )
        labeled = tuple(replace(entry, label=labels[entry.origin.split("/")[0]]) for entry in inside)
        return SamplePlan(labeled, (*plan.skipped, *outside))

    def load(self, entry: Entry) -> LoadedSample:
        """Read one image."""
        return LoadedSample(self.read(entry), label=entry.label)

    def _folders(self, listing: Listing) -> list[str]:
        """Return the class folders; with lists, which may omit a class, those on the disk.

        Raises:
            PipelineError: their number changed since they were listed.
        """
        if self.splits is None:
            return _class_folders(listing.files)
        folders = _class_folders(scan(self.images, "images"))
        if len(folders) != len(listing.classes):
            raise PipelineError(
                f"{self.images}: {len(folders)} folders of classes, but {len(listing.classes)} were listed. "
                "Run `index` again."
            )
        return folders


def _class_folders(files: Iterable[tuple[str, int]]) -> list[str]:
    return sorted({name.split("/")[0] for name, _ in files if "/" in name})


class ImageFolderSource(FolderSource):
    """A folder of images, for distillation without captions."""

    source: Literal["images"]
    images: Location

    @property
    def folder(self) -> Path | RemotePath:
        """The folder of images."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List all files."""
        return Listing(scan(self.images, f"{key}.images"))

    def plan(self, listing: Listing) -> SamplePlan:
        """Every file is an image, or is skipped later."""
        return entries_from_files(listing.files)


class CaptionTableSource(ImageFolderSource):
    """Images with captions in a table: one line per caption, several per image allowed."""

    source: Literal["table"]  # type: ignore[assignment]
    captions: Location
    image_column: str = "image"
    caption_column: str = "caption"

    def listing(self, key: str) -> Listing:
        """List the images named by the table; refuse captions of missing images."""
        sizes = dict(scan(self.images, f"{key}.images"))
        data = read_metadata_file(self.captions, f"{key}.captions")
        pairs = list(self._pairs(data, f"{key}.captions"))
        check_images_exist(sizes, pairs, self.images, self.captions, f"{key}.captions")
        files = tuple((name, sizes[name]) for name in sorted(pairs))
        return Listing(files, ((self.captions.name, hashlib.sha256(data).hexdigest()),))

    def plan(self, listing: Listing) -> SamplePlan:
        """Give each image its captions, in the table's order."""
        data = read_metadata_file(self.captions, "captions")
        refuse_changed(self.captions, hashlib.sha256(data).hexdigest(), listing)
        pairs = self._pairs(data, "captions")
        plan = entries_from_files(listing.files)
        entries = (replace(entry, captions=tuple(pairs[entry.origin])) for entry in plan.entries)
        return SamplePlan(tuple(entries), plan.skipped)

    def load(self, entry: Entry) -> LoadedSample:
        """Read one image."""
        return LoadedSample(self.read(entry), entry.captions)

    def _pairs(self, data: bytes, key: str) -> dict[str, list[str]]:
        pairs = read_caption_table(self.captions, data, self.image_column, self.caption_column, key)
        below: dict[str, list[str]] = {}
        for name, captions in pairs.items():
            below.setdefault(self._below(name, key), []).extend(captions)
        return below

    def _below(self, name: str, key: str) -> str:
        """Return an image's name below the folder; an absolute path inside it is allowed."""
        if isinstance(self.images, RemotePath):
            path = PurePosixPath(name.removeprefix(f"{self.images}/"))
        else:
            path = PurePosixPath(name)
            if path.is_absolute() and path.is_relative_to(self.images.absolute()):
                path = path.relative_to(self.images.absolute())
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"params: '{key}': {self.captions} names {name!r}, which is not below {self.images}")
        return str(path)
