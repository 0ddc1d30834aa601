"""Measure speed and memory of `moments`, and how both grow.

    python benchmarks/bench_moments.py                   # 1M image and 1M text rows x 512: 4 GB of files
    python benchmarks/bench_moments.py --arms cluster    # and two dask.distributed workers
    python benchmarks/bench_moments.py --arms cov-stacked ipca-stacked cov ipca --rows 100000
    python benchmarks/bench_moments.py --growth          # 0.1M, 1M and 4M rows; d = 256, 512 and 1024

Each figure is of a process of its own. Arms take turns, ratios are taken within a round, and the median over
the rounds is printed. 4M rows of each are 16 GB of files: where memory does not hold them, both arms wait for the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import processor
from cache.fingerprint import fingerprint
from cache.manifest import Manifest, ManifestPart, ShardRecord, shard_name, write_manifest
from cache.reader import EmbeddingStore
from cache.shard import ImageShard, TextShard, write_shard
from pipeline.moments import MomentsParams, moments
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.whitening.moments_file import load_moments

SHARD_ROWS = 4096
CORES = len(os.sched_getaffinity(0))
Figures = dict[str, float]


def main() -> None:
    """Measure and print, or run as one of the measured processes."""
    options = _options()
    if options.be:
        print(json.dumps(_be(options.be, Layout(Path(options.folder)))))
        return
    print(f"{processor()}, {CORES} cores, Python {platform.python_version()}, numpy {np.__version__}", flush=True)
    if options.growth:
        for rows, d in ((100_000, 512), (1_000_000, 512), (4_000_000, 512), (250_000, 256), (250_000, 1024)):
            compare(options, rows, d, ["bare", "ours"])
    else:
        compare(options, options.rows, 512, ["bare", "ours", *options.arms, "hashed", "l2"])


def compare(options: argparse.Namespace, rows: int, d: int, arms: list[str]) -> None:
    """Write a store, and let the arms take turns over it."""
    with tempfile.TemporaryDirectory(prefix="bench-moments-", dir=options.folder) as folder:
        write_store(Layout(Path(folder)).embeddings("train"), rows, d)
        run("bare", folder)  # from here on the files are in the page cache
        rounds = [{arm: run(arm, folder) for arm in arms} for _ in range(options.rounds)]
    print(f"{rows} image and {rows} text rows x {d} in {-(-rows // SHARD_ROWS)} shards, {options.rounds} rounds")
    summarise(rounds)


def summarise(rounds: list[dict[str, Figures]]) -> None:
    """Print the medians of each arm over the rounds, and of its ratio to the bare products within a round."""
    for arm in rounds[0]:
        seconds, cpu = (np.median([each[arm][what] for each in rounds]) for what in ("seconds", "cpu"))
        ratio = np.median([each[arm]["seconds"] / each["bare"]["seconds"] for each in rounds])
        ratio_cpu = np.median([each[arm]["cpu"] / each["bare"]["cpu"] for each in rounds])
        memory, apart = (max(each[arm][what] for each in rounds) for what in ("anonymous_mb", "apart"))
        print(
            f"  {arm:8s} {seconds:7.2f} s, {ratio:6.2f} x bare; {cpu:7.2f} s of CPU, {ratio_cpu:6.2f} x; "
            f"{memory:5.0f} MB anonymous; {apart:.0e} apart",
            flush=True,
        )


def write_store(folder: Path, rows: int, d: int) -> None:
    """Write a published split of random rows, one caption an image."""
    rng, parts = np.random.default_rng(0), {}
    for name, make in (("image/view-00", _image), ("text", _text)):
        facts = {"teacher": {"model": "random"}, "part": name}
        records: list[ShardRecord] = []
        for number, start in enumerate(range(0, rows, SHARD_ROWS)):
            path, n = folder / name / shard_name(number), min(SHARD_ROWS, rows - start)
            records.append(write_shard(path, make(rng, n, d), fingerprint(facts)))
        parts[name] = ManifestPart(fingerprint(facts), facts, tuple(records))
    write_manifest(folder, Manifest("train", {"model": "random"}, {"rows": rows}, {}, 256, parts))


def _image(rng: np.random.Generator, n: int, d: int) -> ImageShard:
    return ImageShard(_keys(n), _rows(rng, n, d), np.zeros((n, 4), np.float32), np.zeros(n, bool))


def _text(rng: np.random.Generator, n: int, d: int) -> TextShard:
    tokens, shas = np.zeros((n, 1), np.int32), np.full(n, b"0" * 64, "S64")
    return TextShard(_keys(n), _rows(rng, n, d), np.arange(n + 1), tokens, shas)


def _rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.standard_normal((n, d), np.float32) + np.float32(1)


def _keys(n: int) -> tuple[str, ...]:
    return tuple(f"{i:08d}" for i in range(n))


def bare(layout: Layout) -> None:
    """Compute XᵀX, TᵀT and XᵀT in float64: no means, no checks, one thread per core."""
    from threadpoolctl import threadpool_limits

    store = EmbeddingStore.open(layout.embeddings("train"), "size")
    shards = list(zip(store.image().blocks(), store.text().blocks(), strict=True))

    def add(core: int) -> list[np.ndarray]:
        d = store.dim
        sums = [np.zeros((d, d)) for _ in range(3)]
        for image, text in shards[core::CORES]:
            x, t = image.astype(np.float64), text.astype(np.float64)
            for total, product in zip(sums, (x.T @ x, t.T @ t, x.T @ t), strict=True):
                np.add(total, product, out=total)
        return sums

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(CORES) as pool:
        [sum(each) for each in zip(*pool.map(add, range(CORES)), strict=True)]


def ours(layout: Layout, **settings: object) -> None:
    """Run the stage, by default without hashing and with unnormalized rows."""
    params = MomentsParams.model_validate({"pre_norm": [settings.pop("norm", "none")]})
    moments(params, layout, Runtime.model_validate({"verify": "size", **settings}))


def cluster(layout: Layout) -> Figures:
    """Run the stage on two workers; their start is not included."""
    from distributed import LocalCluster

    before = load_moments(layout.moments).for_norm("none")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers:
        started = time.perf_counter()
        ours(layout, scheduler=workers.scheduler_address)
        seconds = time.perf_counter() - started
    after = load_moments(layout.moments).for_norm("none")
    pairs = [(before.image.scatter, after.image.scatter)]
    if before.cross and after.cross:
        pairs.append((before.cross.scatter, after.cross.scatter))
    return {"seconds": seconds, "apart": max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)}


def cov(layout: Layout, *, stacked: bool = False) -> None:
    """Compute covariances with dask.array.cov in float64.

    Of images, and of texts; or stacked, of both side by side, which is how it gives the covariance between them too.
    """
    import dask.array as da

    store = EmbeddingStore.open(layout.embeddings("train"), "size")
    found = [
        da.concatenate([da.from_array(block, chunks=block.shape) for block in rows.blocks()]).astype(np.float64)
        for rows in (store.image(), store.text())
    ]
    for rows in [da.concatenate(found, axis=1)] if stacked else found:
        da.cov(rows, rowvar=0).compute()


def ipca(layout: Layout, *, stacked: bool = False) -> None:
    """Fit scikit-learn's IncrementalPCA, a shard at a time, to images, and to texts; or stacked, to both at once."""
    from sklearn.decomposition import IncrementalPCA

    store = EmbeddingStore.open(layout.embeddings("train"), "size")
    images, texts = store.image().blocks(), store.text().blocks()
    sides = [(np.hstack(pair) for pair in zip(images, texts, strict=True))] if stacked else [images, texts]
    for blocks in sides:
        fitted = IncrementalPCA()
        for block in blocks:
            if len(block) >= block.shape[1]:
                fitted.partial_fit(block.astype(np.float64))


ARMS: dict[str, Callable[[Layout], Figures | None]] = {
    "bare": bare,
    "ours": ours,
    "hashed": lambda layout: ours(layout, verify="hash"),
    "l2": lambda layout: ours(layout, norm="l2"),
    "cluster": cluster,
    "cov": cov,
    "ipca": ipca,
    "cov-stacked": partial(cov, stacked=True),
    "ipca-stacked": partial(ipca, stacked=True),
}


def run(arm: str, folder: str) -> Figures:
    """Measure an arm in a process of its own."""
    command = [sys.executable, __file__, "--be", arm, "--folder", folder]
    found: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _be(arm: str, layout: Layout) -> Figures:
    with _watched() as peak:
        started, cpu = time.perf_counter(), time.process_time()
        found = ARMS[arm](layout) or {}
        figures = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "apart": 0.0}
    return {**figures, "anonymous_mb": max(peak), **found}


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Sample this process's anonymous memory every few milliseconds, without mapped files."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            status = Path("/proc/self/status").read_text()
            peak.append(int(status.split("RssAnon:")[1].split()[0]) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_007_616, help="image rows, and text rows (246 shards)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arms", nargs="*", default=[], choices=sorted(set(ARMS) - {"bare", "ours", "hashed", "l2"}))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--folder", help="where the files go for the time being")
    parser.add_argument("--be", choices=sorted(ARMS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
