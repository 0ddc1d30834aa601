"""Dask workers as a cluster has them: a process each, started in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import ROOT


class DaskWorker:
    """`dask worker` in a process of its own, whose working directory is `folder`, without a nanny to start it again.

    `preload` is Python that it runs before it joins the cluster, `site` before it imports anything.
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
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
        command += ["--name", folder.name, "--no-dashboard", "--preload", "preload.py"]
        paths = os.pathsep.join(map(str, (source, folder / "site", *((path,) if path else ()))))
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.folder, self.name, self.log = folder, folder.name, folder / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        self.process.kill()
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
