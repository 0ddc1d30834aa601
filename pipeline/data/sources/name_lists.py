"""Lists of names that cut a folder into splits, such as those of JiGen for PACS: a name a line, a label behind it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.sources.base import check_images_exist, read_metadata_file
from pipeline.project.errors import UsageError

_LABEL = re.compile(r"[ \t]+\d+$")

Files = tuple[tuple[str, int], ...]


def select_listed(
    files: Files, lists: Sequence[Path], folder: Path, key: str
) -> tuple[Files, tuple[tuple[str, str], ...]]:
    """Return those of a folder's files that the lists name, and the lists by name and SHA-256.

    A line is a path from the folder on, or from further above: `PACS/photo/dog/056_0001.jpg 1` in the folder
    `…/photo` is `dog/056_0001.jpg`. The label behind it is not read, folders are the labels; the ending may be
    another, as in a copy that was converted.

    Raises:
        UsageError: a list cannot be read, names nothing, names what is not in the folder, or carries another's name.
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
        names = [_below(line, folder.resolve().name) for line in _lines(data, path, key)]
        if not names:
            raise UsageError(f"params: '{key}': {path} names no images")
        found = [name if name in sizes else stems.get(_stem(name), name) for name in names]
        check_images_exist(sizes, found, folder, path, key)
        named.update(found)
    return tuple((name, size) for name, size in files if name in named), tuple(sorted(documents.items()))


def _lines(data: bytes, path: Path, key: str) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"params: '{key}': {path}: not UTF-8 at byte {error.start}") from None
    return [_LABEL.sub("", line.strip()) for line in lines if line.strip()]


def _below(name: str, folder: str) -> str:
    """Return a path without what leads to the folder; one that leads through no folder of its name stays as it is.

    Names repeat from one domain to the next (`dog/pic_001.jpg`), so a list of another domain must not seem to fit.
    """
    before, found, after = name.rpartition(f"{folder}/")
    return after if found and (not before or before.endswith("/")) else name


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122  a name, not a path of this machine
