"""What a cluster costs: pack, embed and moments by Dask workers with folders of their own, beside one process.

    python benchmarks/bench_cluster.py                            # four workers, the sample's 4,000 images, 3 rounds
    python benchmarks/bench_cluster.py --workers 2 --images 8000

The workers, the scheduler and an S3 endpoint (moto's server) run on this machine, so the workers save no time: the
ratio is the overhead of tasks, of copies through object storage and of their checks. Each worker has a folder of its
own and one thread, as the one process has. A small split of one shard goes first, on one of the workers. The others
load libraries and the teacher within the measured stages, so the ratio of short runs is mostly their start-up.

Processor seconds are those of the driver's command and of all workers, without the endpoint. Wall seconds depend on the
number of free cores. The bytes of both runs are compared.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import options_of, processor, spread

ROOT = Path(__file__).parent.parent
STAGES = ("pack", "embed", "moments")
ENVIRONMENT = {
    **os.environ,
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench-of-the-loopback",
    "AWS_DEFAULT_REGION": "us-east-1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds of one stage."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Cluster:
    """A scheduler with its workers, and the folder in object storage where they meet."""

    address: str
    workers: tuple[subprocess.Popen[bytes], ...]
    remote: str

    def processor_seconds(self) -> float:
        """Return what all workers have used until now."""
        return sum(_processor_seconds(worker.pid) for worker in self.workers)


def main() -> None:
    """Measure and print."""
    parser = options_of(__doc__, images=4000, rows=250)
    parser.set_defaults(rounds=3, workers=4)
    options = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.0f}", flush=True)
    ratios: dict[str, list[tuple[float, float]]] = {stage: [] for stage in (*STAGES, "all three")}
    for number in range(options.rounds):
        alone, shared = compare(options.images, options.rows, options.workers)
        for stage in STAGES:
            print(f"round {number}: {stage}: one process {alone[stage]}, cluster {shared[stage]}", flush=True)
        alone["all three"], shared["all three"] = _total(alone), _total(shared)
        for stage, pairs in ratios.items():
            pairs.append((shared[stage].wall / alone[stage].wall, shared[stage].processor / alone[stage].processor))
    print("| stage | wall seconds, cluster / one process | processor seconds |\n|---|---|---|")
    for stage, pairs in ratios.items():
        print(f"| {stage} | {spread([wall for wall, _ in pairs])} | {spread([used for _, used in pairs])} |")


def compare(images: int, shard_rows: int, count: int) -> tuple[dict[str, Cost], dict[str, Cost]]:
    """Return the costs of one process and of a cluster, after comparing their bytes."""
    settings = [f"index.train.images={images}", f"pack.shard_rows={shard_rows}", "index.val.images=64"]
    settings += ["runtime.device=cpu", "runtime.workers=0", "runtime.batch=128"]
    settings += [f"embed.teacher.model=local-dir:{ROOT / 'presets' / 'sample-teacher'}"]
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as name, ExitStack() as stack:
        folder = Path(name)
        alone = walk(folder / "alone", settings, None)
        cluster = start_cluster(folder, count, stack)
        shared = walk(folder / "driver", settings, cluster)
        if (found := digests(folder / "driver")) != digests(folder / "alone") or not found:
            raise SystemExit("the cluster's bytes are others than those of one process")
    return alone, shared


def start_cluster(folder: Path, count: int, stack: ExitStack) -> Cluster:
    """Start an endpoint, a scheduler and workers, all of which end with the stack."""
    import s3fs  # type: ignore[import-untyped]

    endpoint, scheduler = free_port(), free_port()
    ENVIRONMENT["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{endpoint}"
    start(folder / "endpoint", stack, "moto.server", "-p", str(endpoint))
    dask = ("--host", "127.0.0.1", "--port", str(scheduler), "--no-dashboard")
    start(folder / "scheduler", stack, "distributed.cli.dask_scheduler", *dask)
    address = f"tcp://127.0.0.1:{scheduler}"
    own = ("distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard")
    workers = tuple(start(folder / f"worker-{n}", stack, *own) for n in range(count))
    for port in (endpoint, scheduler):
        wait_for(port)
    keys = {"key": ENVIRONMENT["AWS_ACCESS_KEY_ID"], "secret": ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]}
    s3fs.S3FileSystem(**keys, endpoint_url=ENVIRONMENT["AWS_ENDPOINT_URL"], skip_instance_cache=True).mkdir("bucket")
    return Cluster(address, workers, "s3://bucket/shards")


def start(folder: Path, stack: ExitStack, *module: str) -> subprocess.Popen[bytes]:
    """Start a module's command in a folder of its own."""
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", *module]
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int, seconds: float = 120) -> None:
    """Wait until somebody listens on a port."""
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def walk(folder: Path, settings: list[str], cluster: Cluster | None) -> dict[str, Cost]:
    """Run the stages in a folder, the small split first; return the costs of the training split."""
    folder.mkdir(exist_ok=True)
    there = [f"runtime.scheduler={cluster.address}", f"runtime.remote={cluster.remote}"] if cluster else []
    for split in ("train", "val"):
        run(folder, ["index", "--split", split], settings, None)
    for stage in ("pack", "embed"):
        run(folder, [stage, "--split", "val"], [*settings, *there], cluster)
    options = {"pack": ["--split", "train"], "embed": ["--split", "train"], "moments": []}
    return {stage: run(folder, [stage, *options[stage]], [*settings, *there], cluster) for stage in STAGES}


def run(folder: Path, command: list[str], settings: list[str], cluster: Cluster | None) -> Cost:
    """Run one command in a folder; return its seconds, with those of the workers meanwhile."""
    options = ["--params", str(ROOT / "params.yaml"), *(word for value in settings for word in ("--set", value))]
    before, began = cluster.processor_seconds() if cluster else 0.0, time.perf_counter()
    with (folder / "log").open("ab") as log:
        line = [sys.executable, str(ROOT / "cli.py"), *command, *options]
        process = subprocess.Popen(line, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((folder / "log").read_text(encoding="utf-8")[-2000:])
    wall = time.perf_counter() - began
    workers = cluster.processor_seconds() - before if cluster else 0.0
    return Cost(round(wall, 2), round(used.ru_utime + used.ru_stime + workers, 2))


def digests(folder: Path) -> dict[str, str]:
    """Return the hashes of what was published."""
    names = ("data/packed", "data/embeddings")
    paths = [path for name in names for path in sorted((folder / name).rglob("*")) if path.is_file()]
    paths.append(folder / "data" / "moments.h5")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _total(costs: dict[str, Cost]) -> Cost:
    return Cost(sum(cost.wall for cost in costs.values()), sum(cost.processor for cost in costs.values()))


if __name__ == "__main__":
    main()
