"""A folder of finished work that survives killed runs and DVC's deletion of outputs."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cache.atomic import link_or_copy, os_errors_as_write_errors, read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, LockedError
from cache.fingerprint import fingerprint
from cache.manifest import NAME

_POLL_SECONDS = 0.1
_SIGNING_POLLS = 5
"""Polls of a lock before its owner counts as unknown; the owner is written right after the lock is taken."""
UNKNOWN = "no file of the store. If it is a claim that was renamed, move it back, else move it away."
_CLAIM, _LOCK = ".claim", ".lock"
_CLAIM_SECONDS = 60
"""Time limit for the lock of claims; writing a claim takes much less."""


@dataclass(frozen=True)
class WorkStore:
    """Workspaces by stage and fingerprint, in which finished work is found again."""

    root: Path
    read_only: bool = False
    """If set, missing folders are not created."""

    def workspace(self, stage: str, mark: str) -> Path:
        """Return the folder of one piece of work, created if missing."""
        folder = self.root / f"{stage}-{mark}"
        if self.read_only:
            return folder
        with os_errors_as_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, stage: str, mark: str, wait_seconds: float = 0, *, shared: bool = False) -> Iterator[None]:
        """Hold a piece of work exclusively or shared, on all machines that share this file system.

        A flock: the operating system releases it when the process ends, in whatever way.

        Raises:
            LockedError: another process holds it; the message names the process.
        """
        path = self.root / f"{stage}-{mark}{_LOCK}"
        with os_errors_as_write_errors(path):
            self.root.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        with file:
            _acquire(file, path, wait_seconds, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            _write_owner(file)
            _open_locks.add(file)
            try:
                yield
            finally:
                _open_locks.discard(file)

    def pin(self, stage: str, out: Path, prefixes: Iterable[str]) -> None:
        """Record the files of the store that an output needs, finished or unfinished.

        `kept` are prefixes of paths in the store: 'embed-0123456789ab/' is a whole workspace. A later claim of the
        stage for the same output replaces this one; `gc` removes files that no output claims.
        """
        facts = {"stage": stage, "out": os.path.relpath(out, self.root)}
        mark = fingerprint(facts)
        # Several students may start at once and claim the same pixels; they take turns.
        with self.lock("claim", mark, _CLAIM_SECONDS):
            write_checksummed_json(self.root / f"{mark}{_CLAIM}", {**facts, "kept": sorted(prefixes)})

    def pins(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Return the outputs and their claims.

        Raises:
            DamagedError: a claim was changed after it was written, or an unknown file may be a claim.
        """
        for path in self.unknown_files():
            raise DamagedError(f"{path}: {UNKNOWN}")
        claims = [read_checksummed_json(path) for path in sorted(self.root.glob(f"*{_CLAIM}"))]
        return [((self.root / claim["out"]).resolve(), tuple(claim["kept"])) for claim in claims]

    def unknown_files(self) -> list[Path]:
        """Return files next to the workspaces that are neither claims nor locks, such as renamed claims."""
        files = (path for path in self.root.glob("*") if path.is_file() and not path.name.startswith("."))
        return sorted(path for path in files if path.suffix not in {_CLAIM, _LOCK})

    def publish(self, files: Mapping[str, Path], out: Path) -> None:
        """Make `out` contain exactly these finished files, under these names; the manifest is linked last."""
        with os_errors_as_write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            (out / NAME).unlink(missing_ok=True)
            _remove_stale(out, files)
        for name in sorted(files, key=lambda name: (name == NAME, name)):
            link_or_copy(files[name], out / name)


_open_locks: set[IO[str]] = set()


def _release_in_child() -> None:
    """Close inherited locks, so that a worker that outlives its parent does not hold them."""
    for file in _open_locks:
        file.close()
    _open_locks.clear()


os.register_at_fork(after_in_child=_release_in_child)


def _acquire(file: IO[str], path: Path, wait_seconds: float, kind: int) -> None:
    until = time.monotonic() + wait_seconds
    while True:
        try:
            with os_errors_as_write_errors(path):
                return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise LockedError(
                    f"{path}: held by {_read_owner(file)}. Wait until it ends, or end it, and run the same "
                    "command again."
                ) from None
        time.sleep(_POLL_SECONDS)


def _write_owner(file: IO[str]) -> None:
    """Record the owner of the lock; on a full disk skip it, because `gc` must still run to free space."""
    who = {"pid": os.getpid(), "host": os.uname().nodename, "command": shlex.join(sys.argv)}
    with suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps(who).encode())


def _read_owner(file: IO[str]) -> str:
    for _ in range(_SIGNING_POLLS):
        file.seek(0)
        try:
            who = json.loads(file.read())
            return f"process {who['pid']} on {who['host']} (`{who['command']}`)"
        except (ValueError, KeyError, TypeError):
            time.sleep(_POLL_SECONDS)
    return "another process"


def _remove_stale(out: Path, files: Mapping[str, Path]) -> None:
    published = {out / name for name in files}
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path in file.parents for file in published):
                path.rmdir()
        elif path not in published:
            path.unlink()
