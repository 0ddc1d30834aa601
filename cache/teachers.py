"""Several teachers of one split: a folder of embeddings each, found by who made it.

The first teacher's embeddings lie in the split's folder itself, as those of a single one do; each further teacher has
`teachers/<name>/` inside it, a whole store with a manifest of its own. So whatever reads one teacher needs to know
nothing of the others, a part's file never moves when a teacher is added, and a folder can be copied as it is.
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
"""Beside the manifest of a split that was embedded by named teachers: their names in order."""
ENSEMBLE = "ensemble"
"""In the facts of an ensemble: those of its members, in order."""
JOINT = "+"
"""Between the names of an ensemble's members, and so in no name."""


def write_names(folder: Path, names: Sequence[str]) -> None:
    """Write down what the teachers of a split are called, the first of them first."""
    write_checksummed_json(folder / TEACHERS, {"names": list(names)})


def teacher_folders(folder: Path) -> dict[str, Path]:
    """Return where each teacher's embeddings of a split lie, in order; a single one without a name is called ''.

    Raises:
        DamagedError: the list of names was changed.
    """
    if not (folder / TEACHERS).exists():
        return {"": folder}
    first, *others = read_checksummed_json(folder / TEACHERS)["names"]
    return {first: folder, **{name: folder / OTHERS / name for name in others}}


def members(teacher: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of each teacher of an ensemble; of a single one its own."""
    return list(teacher.get(ENSEMBLE, ())) or [dict(teacher)]


def widths(teacher: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the dimensions of each teacher of an ensemble, in order; nothing for a single one."""
    return tuple(int(member["dim"]) for member in teacher.get(ENSEMBLE, ()))


def find_folders(folder: Path, teacher: Mapping[str, Any]) -> list[Path]:
    """Return where the embeddings of a split by each member of a teacher lie, whatever the members are called.

    Raises:
        MissingError: nothing is embedded there.
        StaleError: a teacher is asked for that did not embed this split.
    """
    facts = {path: read_manifest(path).teacher for path in teacher_folders(folder).values()}
    found = []
    for wanted in members(teacher):
        path = next((path for path, known in facts.items() if known == wanted), None)
        if path is None:
            known = ", ".join(_short(each) for each in facts.values())
            raise StaleError(
                f"{folder}: embedded from teacher {known}, but {_short(wanted)} is at hand. "
                "Run `dvc repro`, or name the folders that belong together."
            )
        found.append(path)
    return found


def teacher_names(folder: Path, teacher: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the members of a teacher are called in a split; twins are told apart by their order."""
    free = dict(teacher_folders(folder))
    names = []
    for wanted in members(teacher):
        name = next((name for name, path in free.items() if _made_by(path, wanted)), None)
        if name is None:
            raise MissingError(f"{folder}: not embedded by {_short(wanted)}. Run `dvc repro embed`.")
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
    known = [read_manifest(path).teacher for path in teacher_folders(folder).values()]
    return all(member in known for member in members(teacher))
