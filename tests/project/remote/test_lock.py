from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Semaphore

import pytest

from cache.errors import LockedError
from pipeline.project.remote import lock as locks
from pipeline.project.remote.lock import remote_lock
from pipeline.project.remote.objects import list_objects
from pipeline.project.remote.paths import RemotePath
from tests.factories.object_storage import BUCKET, FaultyProxy, S3Server


def root(name: str) -> RemotePath:
    return RemotePath(f"s3://{BUCKET}/lock-{name}")


def test_a_second_writer_is_refused_with_the_first_ones_name_and_admitted_after_it(s3: S3Server) -> None:
    with remote_lock(root("two"), "embed-0"):
        with pytest.raises(LockedError, match=r"held by process \d+ on .* its lease ends in (5\d\d|600) s"):
            remote_lock(root("two"), "embed-0").__enter__()
        with remote_lock(root("two"), "embed-1"):
            pass
    with remote_lock(root("two"), "embed-0"):
        pass
    assert list(list_objects(root("two") / "locks" / "embed-0")) == ["all/00000002.json"]


def test_ranks_hold_it_side_by_side_and_keep_out_who_wants_it_alone(s3: S3Server) -> None:
    with ExitStack() as stack:
        for rank in range(3):
            stack.enter_context(remote_lock(root("ranks"), "embed-0", f"rank-{rank}"))
        with pytest.raises(LockedError, match="rank-1: held by"):
            remote_lock(root("ranks"), "embed-0", "rank-1").__enter__()
        with pytest.raises(LockedError, match="rank-0: held by"):
            remote_lock(root("ranks"), "embed-0").__enter__()
    with (
        remote_lock(root("ranks"), "embed-0"),
        pytest.raises(LockedError, match="all: held by"),
    ):
        remote_lock(root("ranks"), "embed-0", "rank-0").__enter__()


def test_of_many_who_want_it_at_once_one_has_it(s3: S3Server) -> None:
    refused = Semaphore(0)

    def work(_: int) -> bool:
        try:
            with remote_lock(root("many"), "embed-0"):
                return all(refused.acquire(timeout=60) for _ in range(5))
        except LockedError:
            refused.release()
            return False

    with ThreadPoolExecutor(6) as pool:
        admitted = list(pool.map(work, range(6)))
    assert admitted.count(True) == 1


def test_a_lease_is_renewed_while_its_holder_lives(s3: S3Server) -> None:
    with remote_lock(root("renewed"), "embed-0", seconds=2.0):
        time.sleep(2.5)
        with pytest.raises(LockedError):
            remote_lock(root("renewed"), "embed-0").__enter__()


def test_the_lease_of_a_holder_that_was_killed_ends_and_one_of_those_who_wait_takes_over(s3: S3Server) -> None:
    path = "lock-killed/locks/embed-0/all/00000007.json"
    who = {"owner": "process 1 on elsewhere", "expires": time.time() + 60, "nonce": "x", "released": False}
    s3.request("PUT", path, json.dumps(who).encode())
    with pytest.raises(LockedError, match=r"process 1 on elsewhere.*its lease ends in \d\d s"):
        remote_lock(root("killed"), "embed-0").__enter__()
    s3.request("PUT", path, json.dumps({**who, "expires": time.time() - 1}).encode())
    with remote_lock(root("killed"), "embed-0"):
        assert list(list_objects(root("killed"))) == ["locks/embed-0/all/00000008.json"]


def test_a_slow_process_that_puts_a_number_which_others_have_left_behind_withdraws(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_lock(root("slow"), "embed-0"):
        pass
    with remote_lock(root("slow"), "embed-0"), monkeypatch.context() as patch:
        numbers = iter([[], [1, 2]])  # what it saw before the others came, and what it sees now
        patch.setattr(locks, "_numbers", lambda _: next(numbers))
        with pytest.raises(LockedError, match="held by"):
            remote_lock(root("slow"), "embed-0").__enter__()
    assert list(list_objects(root("slow"))) == ["locks/embed-0/all/00000002.json"]


def test_a_lock_is_taken_and_let_go_of_through_faults(faulty_s3: FaultyProxy) -> None:
    for _ in range(3):
        with remote_lock(root("faults"), "embed-0"), pytest.raises(LockedError):
            remote_lock(root("faults"), "embed-0").__enter__()
    assert sum(faulty_s3.injected.values()) > 5
