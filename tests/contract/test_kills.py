"""Whichever stage is stopped at whichever write by whichever signal: run again, it leaves the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.factories.fork_server import programs

DONE, INTERRUPTED, KILLED, TERMINATED = 0, 130, -9, -15


GROUPS = (
    ("index", "pack", "moments", "whiten"),
    ("embed",),
    ("distill",),
    ("relate", "relate --student", "evaluate"),
    ("export", "export-embeddings", "import", "audit", "report"),
)
"""All stages, in parts that take about the same time."""


def drive(folder: Path, teacher: str, points: int, stages: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    ran = subprocess.run(
        [programs() / "python", "-m", "tests.contract.kill_driver", str(folder), teacher, str(points), *stages],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    print(found)
    for stage, told in found.items():
        assert told["differ"] == [], f"{stage} stopped there gives other bytes, or does not end"
        assert told["left"] == [], f"{stage} stopped there leaves half a file for good"
        assert set(told["codes"]) <= {DONE, INTERRUPTED, KILLED, TERMINATED}, stage
        assert told["kills"] > 0  # Negative control: it was stopped.
    return found


def test_each_stage_stopped_at_one_of_its_writes_ends_in_the_same_bytes(tmp_path: Path, tiny_teacher: str) -> None:
    drive(tmp_path, tiny_teacher, 1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("stages", GROUPS, ids=lambda stages: stages[0])
def test_stages_stopped_at_every_write_by_three_signals_in_turn_end_in_the_same_bytes(
    tmp_path: Path, tiny_teacher: str, stages: tuple[str, ...]
) -> None:
    found = drive(tmp_path, tiny_teacher, 0, stages)
    assert sorted(found) == sorted(stages)
    assert all(told["kills"] >= told["writes"] - 1 for told in found.values())


def test_every_stage_is_in_one_of_the_groups(tiny_teacher: str) -> None:
    from tests.contract.kill_driver import stages  # loads everything

    assert sorted(name for group in GROUPS for name in group) == sorted(stages(tiny_teacher))
