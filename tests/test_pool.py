"""Workers do not outlive who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import multiprocessing, os, sys, time
from pipeline.comparing.pool import follow_parent

def work():
    if sys.argv[1] == "follows":
        follow_parent()
    print(os.getpid(), flush=True)
    time.sleep(100)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(100)
"""


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has asked after does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.parametrize("how", ["follows", "stays"])
def test_a_worker_whose_parent_was_killed_ends_too(tmp_path: Path, how: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), how]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        worker = int(p.stdout.readline())
        p.kill()
    try:
        until = time.monotonic() + (20 if how == "follows" else 1)
        while alive(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert alive(worker) == (how == "stays")
    finally:
        if alive(worker):
            os.kill(worker, signal.SIGKILL)
