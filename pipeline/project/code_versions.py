"""Identity of the code that made a result: version numbers for expensive stages, digests for the others.

`pack`, `pixels`, `embed` and the synthetic sample have a version number each in pipeline/versions.json; a test compares
the digest next to it with the code. `moments` and later stages are identified by the digest itself, unless it was
accepted as equivalent to an earlier one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import read_checksummed_json, write_checksummed_json, write_json
from cache.errors import CacheError
from cache.work_store import WorkStore
from pipeline.project.code_digest import ENTRY_MODULES, ROOT, code_digest, present_digest, source_digest
from pipeline.project.errors import PipelineError, UsageError, did_you_mean
from pipeline.project.layout import Layout

VERSIONS = ROOT / "pipeline" / "versions.json"
NUMBERED = ("synthetic", "pack", "pixels", "embed")
FOLLOWED = tuple(unit for unit in ENTRY_MODULES if unit not in NUMBERED)
MADE_BY = "code.json"
"""File in a folder of the store with the digest of the code that made it."""
RECORD_SECONDS = 60
"""Time limit for the lock of data/code.json; writing it takes much less."""


def code_version(unit: str) -> int:
    """Return the version number of `synthetic`, `pack`, `pixels` or `embed`."""
    return int(_read_versions()["numbered"][unit]["version"])


def code_identity(unit: str) -> str:
    """Return the identity of a unit's code for fingerprints: its digest, or the earlier one it is equivalent to."""
    return _identity(unit, code_digest(unit))


def record_code(layout: Layout) -> None:
    """Write data/code.json, which DVC reads: the present identity of each unit with a digest.

    The folder of scorers' records, on which `evaluate` depends in DVC, is made where there is none. If a unit changed,
    print that its results will be made again, and how to keep them. Processes that end together, as those of torchrun,
    take turns.

    Raises:
        LockedError: another process has been writing it for a minute.
    """
    layout.scorer_records.mkdir(parents=True, exist_ok=True)
    with WorkStore(layout.store).lock("record", "code", RECORD_SECONDS):
        _record_code(layout)


def _record_code(layout: Layout) -> None:
    before = _recorded(layout.code)
    if before.get("source") == (source := source_digest()) and before.get("versions") == _read_versions():
        return
    now = {name: code_identity(name) for name in FOLLOWED}
    changed = [name for name in FOLLOWED if before.get(name, now[name]) != now[name]]
    earlier = {**before.get("earlier", {}), **{name: before[name] for name in changed}}
    write_checksummed_json(layout.code, {**now, "earlier": earlier, "source": source, "versions": _read_versions()})
    for name in changed:
        print(
            f"code of {name} changed ({before[name]} -> {now[name]}): `dvc repro` makes its results again. To keep "
            f"them, stop and run `python cli.py accept {name}`.",
            file=sys.stderr,
            flush=True,
        )


@dataclass(frozen=True)
class StageCode:
    """The code of a stage at the start of a command."""

    unit: str
    digest: str

    @classmethod
    def snapshot(cls, unit: str) -> StageCode:
        """Return the present code."""
        return cls(unit, code_digest(unit))

    def record(self, layout: Layout) -> None:
        """Write data/code.json at the end of a stage, unless its code was edited meanwhile.

        Raises:
            PipelineError: it was edited; DVC would record the new code for the old files.
        """
        if (now := present_digest(self.unit)) != self.digest:
            raise PipelineError(
                f"{self.unit}: its code changed while it ran, from {self.digest} to {now}. Run it again to use the "
                "new code."
            )
        record_code(layout)


def record_maker(folder: Path, unit: str) -> None:
    """Record the code in a new folder of the store; print a warning if other code made its files."""
    path, digest = folder / MADE_BY, code_digest(unit)
    made_by = _recorded(path).get("digest")
    if not any(file for file in folder.iterdir() if not file.name.startswith(".")):  # a write may have been interrupted
        write_checksummed_json(path, {"digest": digest})
    elif made_by not in (None, digest):
        print(
            f"{folder}: made by another code of {unit} ({made_by}, now {digest}) with the same version number "
            f"{code_version(unit)}. To make it again, raise the number in {VERSIONS.relative_to(ROOT)}.",
            file=sys.stderr,
            flush=True,
        )


@dataclass(frozen=True)
class Acceptance:
    """A unit whose present code counts as an earlier one."""

    unit: str
    digest: str
    counts_as: str

    @property
    def line(self) -> str:
        """Return one line for the terminal."""
        return f"{self.unit}: code {self.digest} counts as {self.counts_as}; nothing is made again for it"


def accept_code(units: Sequence[str], layout: Layout) -> list[Acceptance]:
    """Let the present code of some units (default: all) count as the code before the last change.

    For a unit with a number, the digest next to its number becomes the present one; for one with a digest, the present
    digest is recorded as equivalent to the one in data/code.json.

    Raises:
        UsageError: no such unit.
    """
    if unknown := [unit for unit in units if unit not in ENTRY_MODULES]:
        raise UsageError(f"accept: no code '{unknown[0]}'{did_you_mean(unknown[0], list(ENTRY_MODULES))}")
    record_code(layout)
    recorded, versions = _recorded(layout.code), _read_versions()
    accepted = []
    for unit in units or ENTRY_MODULES:
        digest = code_digest(unit)
        earlier = versions["numbered"][unit]["digest"] if unit in NUMBERED else recorded["earlier"].get(unit)
        if earlier is None or earlier == (digest if unit in NUMBERED else code_identity(unit)):
            continue
        if unit in NUMBERED:
            versions["numbered"][unit]["digest"] = digest
            accepted.append(Acceptance(unit, digest, f"version {code_version(unit)}"))
        else:
            versions["accepted"][unit] = {"digest": digest, "counts_as": earlier}
            accepted.append(Acceptance(unit, digest, earlier))
    write_json(VERSIONS, versions)
    identities = {unit: _identity(unit, code_digest(unit)) for unit in FOLLOWED}
    write_checksummed_json(layout.code, {**identities, "earlier": {}, "source": source_digest(), "versions": versions})
    return accepted


def _identity(unit: str, digest: str) -> str:
    accepted = _read_versions()["accepted"].get(unit, {})
    return str(accepted["counts_as"]) if accepted.get("digest") == digest else digest


def _recorded(path: Path) -> dict[str, Any]:
    """Return the recorded values; empty if the file is missing or damaged, which is written again."""
    try:
        return read_checksummed_json(path)
    except CacheError:
        return {}


def _read_versions() -> dict[str, Any]:
    """Return pipeline/versions.json.

    Raises:
        PipelineError: it is not valid.
    """
    try:
        versions = json.loads(VERSIONS.read_text(encoding="utf-8"))
        numbers = {
            unit: (int(versions["numbered"][unit]["version"]), str(versions["numbered"][unit]["digest"]))
            for unit in NUMBERED
        }
        accepted = {
            unit: {name: str(entry[name]) for name in ("digest", "counts_as")}
            for unit, entry in versions["accepted"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(f"{VERSIONS}: not the versions of the code ({error!r}). Restore it from git.") from None
    numbered = {unit: {"version": version, "digest": digest} for unit, (version, digest) in numbers.items()}
    return {"numbered": numbered, "accepted": accepted}
