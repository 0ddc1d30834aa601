"""A zero-shot set as most people have it: one folder of images per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.data.classes import class_names, named_templates
from pipeline.data.listing import Entry, Listing, Plan, Skipped, file_entries, scan
from pipeline.data.reading import FolderSource, Loaded
from pipeline.project.errors import UsageError


class ClassFolder(FolderSource):
    """`cifar10/test/airplane/0001.png`: sorted folders are the labels, their names the classes."""

    source: Literal["class-folder"]
    images: Path
    templates: str | tuple[str, ...] = "simple"
    classes: str | tuple[str, ...] | None = None
    """Names in the order of the sorted folders: a list, a file or a list by name; default: the folders' names."""

    @property
    def folder(self) -> Path:
        """The folder of classes."""
        return self.images

    def listing(self, key: str) -> Listing:
        """List all files, and name the classes."""
        files = scan(self.images, f"{key}.images")
        folders = sorted({name.split("/")[0] for name, _ in files if "/" in name})
        if not folders:
            raise UsageError(f"params: '{key}.images': {self.images} holds no folders, expected one for each class")
        classes, documents = class_names(self.classes, folders, f"{key}.classes")
        templates, more = named_templates(self.templates, f"{key}.templates")
        return Listing(files, (*documents, *more), classes, templates)

    def plan(self, listing: Listing) -> Plan:
        """Label each file by its folder."""
        plan = file_entries(listing.files)
        folders = sorted({name.split("/")[0] for name, _ in listing.files if "/" in name})
        labels = {folder: label for label, folder in enumerate(folders)}
        inside = (e for e in plan.entries if "/" in e.origin)
        outside = (Skipped(e.key, e.origin, "lies in no class's folder") for e in plan.entries if "/" not in e.origin)
        labelled = tuple(replace(entry, label=labels[entry.origin.split("/")[0]]) for entry in inside)
        return Plan(labelled, (*plan.skipped, *outside))

    def load(self, entry: Entry) -> Loaded:
        """Read one image."""
        return Loaded(self.read(entry), label=entry.label)
