"""Finished work survives, one process at a time does it, and its outputs are links to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cache import work_store as module
from cache.errors import LockedError, WriteError
from cache.work_store import WorkStore
from tests import ROOT

HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from cache.work_store import WorkStore
def work():
    time.sleep(60)
if __name__ == "__main__":
    with WorkStore(Path(sys.argv[1])).lock("embed", "f"):
        worker = multiprocessing.get_context("fork").Process(target=work)
        if "worker" in sys.argv:
            worker.start()
        print(worker.pid, flush=True)
        time.sleep(60)
"""


class Holder:
    """Another process that holds a lock until it is killed."""

    def __init__(self, root: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(root), *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    held = Holder(tmp_path)
    yield held
    held.kill()


def test_the_same_work_meets_the_same_workspace(tmp_path: Path) -> None:
    store = WorkStore(tmp_path / "data" / ".store")
    (store.workspace("embed", "0123456789ab") / "shard").write_text("done")
    assert (store.workspace("embed", "0123456789ab") / "shard").read_text() == "done"
    assert store.workspace("embed", "ba9876543210") != store.workspace("embed", "0123456789ab")


def test_a_second_process_is_told_who_holds_the_store(tmp_path: Path, holder: Holder) -> None:
    with pytest.raises(LockedError) as caught, WorkStore(tmp_path).lock("embed", "f"):
        pass
    assert f"process {holder.process.pid} on {os.uname().nodename} (`-c {tmp_path}`)" in str(caught.value)
    assert str(tmp_path / "embed-f.lock") in str(caught.value)


def test_other_work_is_not_kept_out(tmp_path: Path, holder: Holder) -> None:
    with WorkStore(tmp_path).lock("embed", "g"), WorkStore(tmp_path).lock("pack", "f"):
        pass


def test_a_second_process_can_wait_for_the_first(tmp_path: Path, holder: Holder) -> None:
    os.kill(holder.process.pid, signal.SIGSTOP)  # a holder that is stuck still holds
    with pytest.raises(LockedError), WorkStore(tmp_path).lock("embed", "f", wait_seconds=0.3):
        pass
    holder.kill()
    with WorkStore(tmp_path).lock("embed", "f", wait_seconds=30):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path, holder: Holder) -> None:
    holder.kill()
    with WorkStore(tmp_path).lock("embed", "f"):
        pass


def test_a_worker_that_outlives_its_killed_parent_holds_nothing(tmp_path: Path) -> None:
    held = Holder(tmp_path, "worker")
    with pytest.raises(LockedError), WorkStore(tmp_path).lock("embed", "f"):
        pass
    held.kill()
    os.kill(int(held.said), 0)  # the worker still runs
    try:
        with WorkStore(tmp_path).lock("embed", "f", wait_seconds=5):
            pass
    finally:
        os.kill(int(held.said), signal.SIGKILL)


def test_a_lock_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    def fail() -> None:
        with WorkStore(tmp_path).lock("embed", "f"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with WorkStore(tmp_path).lock("embed", "f"):
        pass


def test_a_worker_s_end_leaves_the_lock_with_its_parent(tmp_path: Path) -> None:
    with WorkStore(tmp_path).lock("embed", "f"):
        worker = multiprocessing.get_context("fork").Process(target=time.time)
        worker.start()
        worker.join()
        with pytest.raises(LockedError), WorkStore(tmp_path).lock("embed", "f"):
            pass


def test_a_lock_file_of_which_nobody_is_the_author_still_says_that_it_is_held(tmp_path: Path, holder: Holder) -> None:
    (tmp_path / "embed-f.lock").write_text("not json")
    with pytest.raises(LockedError, match="another process"), WorkStore(tmp_path).lock("embed", "f"):
        pass


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(WriteError, match="A file stands where a folder is needed"):
        WorkStore(tmp_path / "data" / ".store").workspace("embed", "f")
    with pytest.raises(WriteError), WorkStore(tmp_path / "data" / ".store").lock("embed", "f"):
        pass


def made(folder: Path, *names: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name.replace("/", "-")).write_text(name)
    return {name: folder / name.replace("/", "-") for name in names}


def test_published_files_are_links_to_the_finished_ones(tmp_path: Path) -> None:
    files = made(tmp_path / "work", "manifest.json", "image/view-00/shard-00000.h5")
    WorkStore(tmp_path).publish(files, tmp_path / "out")
    for name, source in files.items():
        assert (tmp_path / "out" / name).samefile(source)


def test_publishing_removes_what_is_stale_and_the_folders_it_leaves_empty(tmp_path: Path) -> None:
    WorkStore(tmp_path).publish(
        made(tmp_path / "work", "manifest.json", "image/view-00/a", "text/a", "text/b"), tmp_path / "out"
    )
    (tmp_path / "out" / "empty").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "work")
    WorkStore(tmp_path).publish(made(tmp_path / "work", "manifest.json", "text/a"), tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["manifest.json", "text", "text/a"]
    assert (tmp_path / "work" / "text-b").exists()


def test_publishing_again_after_the_output_was_deleted_links_the_same_files(tmp_path: Path) -> None:
    files = made(tmp_path / "work", "manifest.json", "text/a")
    for _ in range(2):
        WorkStore(tmp_path).publish(files, tmp_path / "out")
        (tmp_path / "out" / "text" / "a").unlink()
    WorkStore(tmp_path).publish(files, tmp_path / "out")
    assert (tmp_path / "out" / "text" / "a").samefile(files["text/a"])


def test_the_manifest_is_gone_before_anything_changes_and_comes_back_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WorkStore(tmp_path).publish(made(tmp_path / "work", "a", "manifest.json", "z"), tmp_path / "out")
    seen = []

    def watch(source: Path, target: Path) -> None:
        seen.append((target.name, (tmp_path / "out" / "manifest.json").exists()))

    monkeypatch.setattr(module, "link_or_copy", watch)
    WorkStore(tmp_path).publish(made(tmp_path / "other", "a", "manifest.json", "z"), tmp_path / "out")
    assert seen == [("a", False), ("z", False), ("manifest.json", False)]


def test_a_lock_is_held_on_a_full_disk_too_though_nobody_signs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cache.work_store.os.write", refuse)
    with WorkStore(tmp_path).lock("embed", "f"):
        monkeypatch.undo()
        with pytest.raises(LockedError, match="another process"), WorkStore(tmp_path).lock("embed", "f"):
            pass


def test_claims_say_what_an_output_needs_and_the_last_of_a_stage_counts(tmp_path: Path) -> None:
    store = WorkStore(tmp_path / "data" / ".store")
    store.pin("embed", tmp_path / "data" / "embeddings" / "train", ["embed-a/"])
    store.pin("embed", tmp_path / "data" / "embeddings" / "train", ["embed-c/", "embed-b/"])
    store.pin("pixels", tmp_path / "data" / "embeddings" / "train", ["pixels-a/"])
    assert sorted(store.pins()) == [
        ((tmp_path / "data/embeddings/train"), ("embed-b/", "embed-c/")),
        ((tmp_path / "data/embeddings/train"), ("pixels-a/",)),
    ]


def test_many_may_claim_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    store, out = WorkStore(tmp_path / "data" / ".store"), tmp_path / "data" / "packed" / "train"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.pin("pixels", out, [f"pixels-{number}/"]), range(80)))
    assert [claimed for claimed, _ in store.pins()] == [out]
    assert not list(tmp_path.rglob("*.unfinished"))
