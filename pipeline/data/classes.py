"""Names of classes: from the folders, a list, or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.reading import read_document
from pipeline.project.errors import UsageError

Documents = tuple[tuple[str, str], ...]


def resolve_classes(
    classes: str | Sequence[str] | None, folders: Sequence[str], key: str
) -> tuple[tuple[str, ...], Documents]:
    """Return the class names in the order of the sorted folders, and the file they came from, if any.

    Raises:
        UsageError: no such file, another number of names than folders, or a name twice.
    """
    documents: Documents = ()
    if classes is None:
        names = tuple(folder.replace("_", " ") for folder in folders)
    elif isinstance(classes, str):
        names, documents = _from_file(Path(classes), key)
    else:
        names = tuple(classes)
    if len(names) != len(folders):
        first = ", ".join(folders[:3])
        raise UsageError(f"params: '{key}': {len(names)} names for {len(folders)} classes ({first}, …)")
    return names, documents


def _from_file(path: Path, key: str) -> tuple[tuple[str, ...], Documents]:
    data = read_document(path, key)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"params: '{key}': {path}: not UTF-8: {error}") from None
    return tuple(line.strip() for line in lines if line.strip()), ((path.name, hashlib.sha256(data).hexdigest()),)
