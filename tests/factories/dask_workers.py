"""Dask workers as a cluster has them: a process each, started in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import ROOT
from tests.factories.fork_server import programs

_PROGRAM = """
import os, sys
from pathlib import Path
Path("pid").write_text(str(os.getpid()))
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
from distributed.cli.dask_worker import main
main()
"""


class DaskWorker:
    """`dask worker` in a process of its own, whose working directory is `folder`, without a nanny to start it again.

    `preload` is Python that it runs before it joins the cluster, `site` before it imports anything. With `site`, other
    source or another path it is an interpreter of its own, else a fork of a process that has loaded the libraries.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        *,
        preload: str = "",
        site: str = "",
        source: Path = ROOT,
        path: Path | None = None,
    ) -> None:
        (folder / "site").mkdir(parents=True, exist_ok=True)
        (folder / "preload.py").write_text(preload, encoding="utf-8")
        (folder / "site" / "sitecustomize.py").write_text(site, encoding="utf-8")
        plain = source == ROOT and not site and path is None
        command = [str(programs() / "python") if plain else sys.executable, "-c", _PROGRAM, address, "--no-nanny"]
        command += ["--nthreads", "1", "--name", folder.name, "--no-dashboard", "--preload", "preload.py"]
        paths = os.pathsep.join(map(str, (source, folder / "site", *((path,) if path else ()))))
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.folder, self.name, self.log = folder, folder.name, folder / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        pid = self.folder / "pid"
        wait_until(lambda: self.process.poll() is not None or (pid.exists() and pid.read_text() != ""), "a process")
        if self.process.poll() is None:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        self.process.wait(timeout=60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()


@contextmanager
def dask_scheduler() -> Iterator[str]:
    """Yield the address of a scheduler in this process, to which no worker belongs yet."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=True, protocol="tcp", dashboard_address=":0") as cluster:
        yield str(cluster.scheduler_address)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds} seconds"
        time.sleep(0.05)
