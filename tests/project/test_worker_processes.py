"""Workers do not outlive who started them, and Ctrl-C shows nobody a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.project.layout import Layout
from tests import ROOT

pytestmark = pytest.mark.process

SCRIPT = """
import multiprocessing, os, sys, time
from pipeline.project.worker_processes import start_worker

def work():
    if sys.argv[1] == "follows":
        start_worker()
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


def children(pid: int) -> list[int]:
    """Return the living processes that a process started."""
    stats = (path.read_text(encoding="utf-8") for path in Path("/proc").glob("[0-9]*/stat"))
    fields = [(int(text.partition(" ")[0]), text.rpartition(")")[2].split()) for text in stats]
    return [child for child, (state, parent, *_) in fields if int(parent) == pid and state != "Z"]


def start_packing(folder: Path) -> subprocess.Popen[str]:
    """Start to pack more than a second's worth of drawn images in two worker processes, and wait until both work."""
    index = {"train": {"source": "sample", "part": "train", "images": 4000}, "splits": ["train"]}
    params = {"index": index, "pack": {"shard_rows": 50}, "runtime": {"workers": 2}}
    (folder / "params.yaml").write_text(json.dumps(params))
    command = [sys.executable, str(ROOT / "cli.py")]
    subprocess.run([*command, "index"], cwd=folder, check=True)
    packing = subprocess.Popen(
        [*command, "pack"], cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 60
    while not list(Layout(folder).store.glob("pack-*/*.tar")) and time.monotonic() < until:
        time.sleep(0.02)
    return packing


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.parametrize("how", ["terminated", "interrupted", "interrupted alone", "killed"])
def test_no_worker_outlives_a_pack_that_was_stopped_and_nobody_sees_a_traceback(tmp_path: Path, how: str) -> None:
    packing = start_packing(tmp_path)
    workers = children(packing.pid)
    assert len(workers) >= 2  # Negative control: there are some to outlive it.
    if how == "interrupted":  # as a terminal does it: everybody in the group
        os.killpg(packing.pid, signal.SIGINT)
    else:
        numbers = {"terminated": signal.SIGTERM, "killed": signal.SIGKILL, "interrupted alone": signal.SIGINT}
        packing.send_signal(numbers[how])
    told = packing.communicate(timeout=60)[1]
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))
    assert "Traceback" not in told, told
    if "interrupted" in how:
        assert packing.returncode == 130
        assert "error: stopped; what is finished is kept" in told


@pytest.mark.parametrize("at", ["typer", "pydantic"])
def test_ctrl_c_while_modules_are_imported_shows_no_traceback(tmp_path: Path, at: str) -> None:
    (tmp_path / f"{at}.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "verify"], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert b"Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode == (-signal.SIGINT if at == "typer" else 130)
    # Negative control: that is what any other program shows. A parent in the background may have SIGINT ignored.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import {at}"
    plain = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert b"Traceback" in plain.stderr
