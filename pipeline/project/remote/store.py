"""Finished files shared between machines through object storage, each followed by a record of its checksum.

The folder below the URL mirrors `data/.store/`: workspaces, and in them files by name. A file is complete when its
record exists, which is put after it; nothing is renamed. Length and SHA-256 are compared at each download.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import atomic_write, render_json, write_bytes
from cache.checksums import CHECKSUMS
from cache.errors import DamagedError
from cache.fingerprint import sha256
from pipeline.project.errors import UsageError
from pipeline.project.remote.objects import (
    create_object,
    delete_object,
    list_objects,
    object_state,
    put_file,
    put_object,
    read_object,
    read_parts,
)
from pipeline.project.remote.paths import RemotePath, is_url, parse_url, redact

RECORD = ".sha256.json"
"""Suffix of a record."""
Record = dict[str, Any]
"""`size` and `sha256` of a file."""
_RECORD_BYTES = 1 << 16
_DOCUMENT_BYTES = 1 << 30
_FETCHES = 2
"""Downloads of a file: a body damaged in transfer is requested again; one that is stored damaged is not."""


@dataclass(frozen=True)
class RemoteStore:
    """Workspaces of finished files below a URL. Cheap to create and to pickle; holds no connection."""

    root: RemotePath

    def put(self, workspace: str, path: Path) -> None:
        """Put a finished file, unless the same exists; the record of a different one is deleted first.

        Raises:
            RemoteError: it cannot be put.
        """
        target, record = self._places(workspace, path.name)
        facts = {"size": path.stat().st_size, "sha256": sha256(path)}
        if (before := _read_record(record)) == facts:
            return
        if before is not None:
            delete_object(record)
        put_file(path, target)
        put_object(record, render_json(facts))

    def fetch(self, workspace: str, name: str, folder: Path) -> Path | None:
        """Download a file to a folder; return its path, or None if there is no complete one.

        Raises:
            RemoteError: it cannot be read.
            WriteError: the disk is full, the folder cannot be written, …
        """
        source, record = self._places(workspace, name)
        if (facts := _read_record(record)) is None:
            return None
        for attempt in range(1, _FETCHES + 1):
            try:
                with atomic_write(folder / name) as temporary:
                    _download(source, facts, temporary)
                return folder / name
            except FileNotFoundError:
                return None
            except DamagedError as error:
                if attempt == _FETCHES:
                    print(f"made again: {error} It is put anew.", file=sys.stderr)
        return None

    def names(self, workspace: str) -> list[str]:
        """Return the sorted names of the complete files of a workspace; raises RemoteError."""
        there = list_objects(self.root / workspace)
        return sorted(name for name in there if f"{name}{RECORD}" in there)

    def settle(self, workspace: str, path: Path) -> None:
        """Put a small file unless another machine has put one; the first one is used by all machines.

        Raises:
            RemoteError: it can be neither put nor read.
        """
        if not create_object(self.root / workspace / path.name, path.read_bytes()):
            self.adopt(workspace, path.name, path)

    def adopt(self, workspace: str, name: str, path: Path) -> bool:
        """Download the small file of another machine, if there is one; return whether; raises RemoteError."""
        try:
            write_bytes(path, read_object(self.root / workspace / name, _DOCUMENT_BYTES))
        except FileNotFoundError:
            return False
        return True

    def _places(self, workspace: str, name: str) -> tuple[RemotePath, RemotePath]:
        return self.root / workspace / name, self.root / workspace / f"{name}{RECORD}"


def _read_record(path: RemotePath) -> Record | None:
    """Return a record, or None if there is none of this version, so that its file is made again."""
    try:
        found = json.loads(read_object(path, _RECORD_BYTES))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("size"), int) and isinstance(found.get("sha256"), str)
    return found if whole else None


def _download(source: RemotePath, facts: Record, target: Path) -> None:
    """Download an object to a file; raises DamagedError if it differs from its record."""
    if (size := object_state(source).size) != facts["size"]:
        raise DamagedError(f"{source}: {size} bytes, but its record says {facts['size']}.")
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for part in read_parts(source, facts["size"]):
            file.write(part)
            digest.update(part)
    if (found := digest.hexdigest()) != facts["sha256"]:
        expected = facts["sha256"][:12]
        raise DamagedError(f"{source}: SHA-256 {found[:12]}, but its record says {expected}.")


def parse_out(out: str | None) -> tuple[Path | None, RemotePath | None]:
    """Return the local folder and the URL that `--out` names: at most one of them.

    Raises:
        UsageError: a URL of another kind, or with a user, a password or a query.
    """
    if out is None or not is_url(out):
        return (Path(out) if out else None), None
    try:
        return None, parse_url(out)
    except ValueError as error:
        raise UsageError(f"--out {redact(out)}: expected {error}") from None


def put_export(made: Path, out: RemotePath) -> str:
    """Put a folder or a single file, which stays where it was written; return one line for the terminal.

    Readers that wait for `checksums.json` find everything it lists.

    Raises:
        UsageError: the URL is read only.
        RemoteError: object storage denies access or does not answer.
    """
    if made.is_file():
        put_file(made, target := out / made.name)
        return f"{target}: put whole"
    files = sorted(path for path in made.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == CHECKSUMS):
        put_file(path, out / path.relative_to(made).as_posix())
    return f"{out}: {len(files)} files, {CHECKSUMS} last"
