"""Lists of names that split a folder, such as JiGen's for PACS: one name per line, followed by a label."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.sources.base import check_images_exist, read_metadata_file
from pipeline.project.errors import UsageError
from pipeline.project.remote.paths import RemotePath

_LABEL = re.compile(r"[ \t]+\d+$")

Files = tuple[tuple[str, int], ...]


def select_listed(
    files: Files, lists: Sequence[Path | RemotePath], folder: Path | RemotePath, key: str
) -> tuple[Files, tuple[tuple[str, str], ...]]:
    """Return the files of a folder that the lists name, and the lists by name and SHA-256.

    A line is a path relative to the folder or to one of its parents: `PACS/photo/dog/056_0001.jpg 1` in the folder
    `…/photo` is `dog/056_0001.jpg`. The label after it is ignored, because folders are the labels. The extension may
    differ, as in a converted copy.

    Raises:
        UsageError: a list cannot be read, is empty, names a missing file, or is a list of another folder.
    """
    named: set[str] = set()
    documents: dict[str, str] = {}
    sizes = dict(files)
    stems = {_stem(name): name for name in sizes}
    for path in lists:
        data = read_metadata_file(path, key)
        if path.name in documents:
            raise UsageError(f"params: '{key}': two lists are called {path.name}: rename one")
        documents[path.name] = hashlib.sha256(data).hexdigest()
        own = folder.name if isinstance(folder, RemotePath) else folder.resolve().name
        names = [_below(line, own) for line in _lines(data, path, key)]
        if not names:
            raise UsageError(f"params: '{key}': {path} names no images")
        matched = [name if name in sizes else stems.get(_stem(name), name) for name in names]
        check_images_exist(sizes, matched, folder, path, key)
        named.update(matched)
    return tuple((name, size) for name, size in files if name in named), tuple(sorted(documents.items()))


def _lines(data: bytes, path: Path | RemotePath, key: str) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"params: '{key}': {path}: not UTF-8 at byte {error.start}") from None
    return [_LABEL.sub("", line.strip()) for line in lines if line.strip()]


def _below(name: str, folder: str) -> str:
    """Return a path without its part up to the folder; a path through no folder of this name is unchanged.

    File names repeat between domains (`dog/pic_001.jpg`), so a list of another domain must not match.
    """
    before, separator, after = name.rpartition(f"{folder}/")
    return after if separator and (not before or before.endswith("/")) else name


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122  a name, not a path of this machine
