"""Locks below a URL: an object that is created only if absent, and renewed while its holder runs.

A POSIX lock ends with its process. Object storage has no such locks; it is replaced by a *lease* with a holder and an
expiry, which the holder renews. A killed holder blocks others until its lease expires.

    locks/<what>/<holder>/00000001.json        {"owner": …, "expires": …, "nonce": …, "released": false}

A process takes over an expired lease by creating the next number, on the condition that it does not exist
(`If-None-Match: *`): of several that try, one succeeds. The highest number is valid and never deleted, so a lock in use
cannot be deleted.

Not guaranteed: clocks must agree within a minute; a holder that was suspended for longer than its lease (a laptop)
continues when it wakes; a server that ignores the condition admits two holders. In these cases two processes make the
same files, which are written whole: work is done twice, but nothing is damaged.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cache.atomic import render_json
from cache.errors import LockedError
from pipeline.project.errors import RemoteError
from pipeline.project.remote.objects import create_object, delete_object, list_objects, put_object, read_object
from pipeline.project.remote.paths import RemotePath, redact

LEASE_SECONDS = 600.0
"""Time for which a killed holder blocks others."""
ALONE = "all"
"""An exclusive holder; any other name allows other names, but not this one."""
_RENEWALS = 4
"""Renewals within the time of a lease."""
_BYTES = 1 << 16


@dataclass(frozen=True)
class _Lease:
    """One holder's number below a lock."""

    folder: RemotePath
    number: int
    nonce: str
    seconds: float

    @property
    def path(self) -> RemotePath:
        return self.folder / f"{self.number:08d}.json"

    def content(self, *, released: bool = False) -> bytes:
        owner = redact(f"process {os.getpid()} on {os.uname().nodename} (`{shlex.join(sys.argv)}`)")
        expires = time.time() + self.seconds
        return render_json({"owner": owner, "expires": expires, "nonce": self.nonce, "released": released})


@contextmanager
def remote_lock(root: RemotePath, what: str, holder: str = ALONE, seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """Hold a lock below a URL, exclusively or shared with holders of other names.

    Raises:
        LockedError: another process holds it; the message has its name and the expiry.
        RemoteError: the lock can be neither read nor written.
    """
    folder = root / "locks" / what
    lease = _acquire(folder, holder, seconds)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(lease, ended), daemon=True)
    renewal.start()
    try:
        _refuse_others(folder, holder)
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(RemoteError):  # the lease expires by itself
            put_object(lease.path, lease.content(released=True))


def _acquire(folder: RemotePath, holder: str, seconds: float) -> _Lease:
    """Create the next number of a holder, after its last lease has expired."""
    numbers = _numbers(folder / holder)
    if numbers:
        _refuse_held(folder / holder, numbers[-1])
    lease = _Lease(folder / holder, (numbers[-1] if numbers else 0) + 1, secrets.token_hex(8), seconds)
    if not create_object(lease.path, lease.content()):
        raise LockedError(f"{lease.folder}: another process took it just now. Run the same command again later.")
    if (highest := _numbers(lease.folder)[-1]) != lease.number:  # this process was too slow
        delete_object(lease.path)
        _refuse_held(lease.folder, highest)
        raise LockedError(f"{lease.folder}: other processes took it just now. Run the same command again.")
    for number in numbers:
        delete_object(lease.folder / f"{number:08d}.json")
    return lease


def _refuse_others(folder: RemotePath, holder: str) -> None:
    """Refuse an exclusive lock while others hold it, and a shared one while it is held exclusively."""
    last: dict[str, int] = {}
    for name in list_objects(folder):
        other, _, file = name.partition("/")
        last[other] = max(last.get(other, 0), _number(file))
    for other, number in last.items():
        if other != holder and ALONE in (other, holder):
            _refuse_held(folder / other, number)


def _refuse_held(folder: RemotePath, number: int) -> None:
    found = _read(folder / f"{number:08d}.json")
    left = float(found.get("expires", 0)) - time.time()
    if found.get("released") or left <= 0:
        return
    raise LockedError(
        f"{folder}: held by {found.get('owner')}. Wait until it ends, or end it, and run the same command again; if it "
        f"was killed, its lease ends in {left:.0f} s."
    )


def _read(path: RemotePath) -> dict[str, Any]:
    try:
        found = json.loads(read_object(path, _BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(folder: RemotePath) -> list[int]:
    return sorted(_number(name) for name in list_objects(folder))


def _number(name: str) -> int:
    digits = name.removesuffix(".json")
    return int(digits) if digits.isdigit() else 0


def _renew(lease: _Lease, ended: threading.Event) -> None:
    """Extend a lease until its work is done, or another process has taken it over."""
    while not ended.wait(lease.seconds / _RENEWALS):
        try:
            if _numbers(lease.folder)[-1:] != [lease.number]:
                print(
                    f"{lease.folder}: taken over, because its lease ended while this process stood still. The work "
                    "goes on; it may be done twice.",
                    file=sys.stderr,
                )
                return
            put_object(lease.path, lease.content())
        except (RemoteError, FileNotFoundError):
            continue  # the next renewal may succeed in time
