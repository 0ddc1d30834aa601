"""Embeddings of one split by several teachers: one folder each, identified by the teacher's facts.

The first teacher's embeddings are in the split's folder itself, as with a single teacher. Each further teacher has
`teachers/<name>/` inside it, a complete store with its own manifest. Code for one teacher therefore works unchanged,
files do not move when a teacher is added, and a folder can be copied as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import CacheError, MissingError, StaleError
from cache.fingerprint import fingerprint
from cache.manifest import OTHERS, read_manifest

TEACHERS = "teachers.json"
"""File with the names of the teachers in order, next to the manifest of a split embedded by named teachers."""
ENSEMBLE = "ensemble"
"""Key in the facts of an ensemble: the facts of its members, in order."""
JOINT = "+"
"""Separator in the name of an ensemble; not allowed in names of teachers."""


def write_names(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the teachers of a split, in order."""
    write_checksummed_json(folder / TEACHERS, {"names": list(names)})


def teacher_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each teacher's embeddings of a split, in order; a single unnamed teacher has the name ''.

    Raises:
        DamagedError: the list of names was changed.
    """
    if not (folder / TEACHERS).exists():
        return {"": folder}
    first, *others = read_checksummed_json(folder / TEACHERS)["names"]
    return {first: folder, **{name: folder / OTHERS / name for name in others}}


def members(teacher: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of each member of an ensemble; for a single teacher its own."""
    return list(teacher.get(ENSEMBLE, ())) or [dict(teacher)]


def widths(teacher: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the dimension of each member of an ensemble, in order; empty for a single teacher."""
    return tuple(int(member["dim"]) for member in teacher.get(ENSEMBLE, ()))


def find_folders(folder: Path, teacher: Mapping[str, Any]) -> list[Path]:
    """Return the folders of a split's embeddings by each member of a teacher, whatever their names.

    Raises:
        MissingError: nothing is embedded there.
        StaleError: a member did not embed this split.
    """
    facts = {path: read_manifest(path).teacher for path in teacher_folders(folder).values()}
    folders = []
    for member in members(teacher):
        path = next((path for path, made_by in facts.items() if made_by == member), None)
        if path is None:
            names = ", ".join(_short(each) for each in facts.values())
            raise StaleError(
                f"{folder}: embedded from teacher {names}, but {_short(member)} is at hand. "
                "Run `dvc repro`, or name the folders that belong together."
            )
        folders.append(path)
    return folders


def teacher_names(folder: Path, teacher: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a teacher's members in a split; identical teachers are matched by order."""
    free = dict(teacher_folders(folder))
    names = []
    for member in members(teacher):
        name = next((name for name, path in free.items() if _made_by(path, member)), None)
        if name is None:
            raise MissingError(f"{folder}: not embedded by {_short(member)}. Run `dvc repro embed`.")
        names.append(name)
        del free[name]
    return tuple(names)


def _made_by(path: Path, teacher: Mapping[str, Any]) -> bool:
    try:
        return read_manifest(path).teacher == teacher
    except CacheError:
        return False


def _short(teacher: Mapping[str, Any]) -> str:
    return f"{fingerprint({'teacher': dict(teacher)})} ({teacher.get('model')})"


def is_embedded_by(folder: Path, teacher: Mapping[str, Any]) -> bool:
    """Return whether a split was embedded by a teacher, or by every member of an ensemble."""
    teachers = [read_manifest(path).teacher for path in teacher_folders(folder).values()]
    return all(member in teachers for member in members(teacher))
