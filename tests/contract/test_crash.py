"""Whatever happens to `embed`, what it leaves in the end is what an undisturbed run leaves, byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.packing.worker import load_finished
from tests import ROOT
from tests.contract.crash_driver import DONE, FAILED, HELD, SHARD_ROWS, SHARDS, lay_out
from tests.factories.fork_server import programs

KILLED = -signal.SIGKILL


def drive(scenario: str, folder: Path, teacher: str, count: int = 0) -> tuple[dict[str, Any], str]:
    made = subprocess.run(
        [programs() / "python", "-m", "tests.contract.crash_driver", scenario, str(folder), teacher, str(count)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "Traceback" not in made.stderr, made.stderr
    return json.loads(made.stdout.splitlines()[-1]), made.stderr


def killed(folder: Path, teacher: str, kills: int) -> dict[str, Any]:
    found, _ = drive("kill", folder, teacher, kills)
    print(found)
    assert found["shards"] >= 24
    assert found["files"] == 3 * SHARDS + 1  # two views, the text, the manifest
    assert found["kills"] == kills
    assert found["runs"] >= 1
    assert found["left_unfinished"] >= 1  # Negative control: some did die in the middle of a write.
    assert set(found["codes"]) <= {DONE, KILLED}
    assert found["same"]
    return found


def test_embed_killed_and_resumed_leaves_the_same_bytes_and_nothing_unfinished(
    tmp_path: Path, tiny_teacher: str
) -> None:
    killed(tmp_path / "project", tiny_teacher, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_embed_killed_forty_times_and_resumed_leaves_the_same_bytes(tmp_path: Path, tiny_teacher: str) -> None:
    killed(tmp_path / "project", tiny_teacher, 40)


def test_of_two_writers_at_once_one_works_and_the_other_is_told_who(tmp_path: Path, tiny_teacher: str) -> None:
    found, told = drive("twice", tmp_path / "project", tiny_teacher, 3)
    assert found["same"]
    assert all(codes in ([DONE, HELD], [DONE, DONE]) for codes in found["codes"]), found
    assert [DONE, HELD] in found["codes"]
    assert "held by process" in told


def test_a_full_disk_is_an_error_that_keeps_the_good_shards_and_room_lets_it_go_on(
    tmp_path: Path, tiny_teacher: str
) -> None:
    found, told = drive("full", tmp_path / "project", tiny_teacher)
    print(found)
    assert (found["code"], found["again"]) == (FAILED, DONE)
    assert "No space left on device" in told
    assert "Free some space and run the same command again" in told
    assert 0 < found["kept"] < 3 * SHARDS
    assert found["kept_as_they_were"]
    assert not found["published"]
    assert found["litter"] == []
    assert found["same"]


def test_a_packed_shard_that_the_disk_damaged_is_packed_again(tmp_path: Path) -> None:
    layout = lay_out(tmp_path)
    shard = layout.packed("train") / "shard-00003.tar"
    whole = shard.read_bytes()
    kept = next(path for path in layout.store.rglob("*.tar") if path.samefile(shard))
    finished = load_finished(kept)
    assert finished is not None
    assert finished.shard.rows == SHARD_ROWS
    with shard.open("r+b") as file:  # in place: the store holds the same file under another name
        file.seek(1000)
        file.write(b"\xff")
    assert load_finished(kept) is None
    lay_out(tmp_path)
    assert shard.read_bytes() == whole
