"""Measure how time and peak memory of `embed` and `distill` grow: images 1 k → 100 k, workers 0 → 2.

    python benchmarks/bench_growth.py --images 1000 10000 100000
    python benchmarks/bench_growth.py --images 5000 --workers 0 1 2

Each measurement is a process of its own: JPEGs of 64 px are written and packed, embedded by the sample teacher (the
center view, no captions), decoded once into the pixel store, and learnt from for some steps. Times are of one run
each. Memory is the largest anonymous memory seen during a stage, above what the process held before it: files that
are mapped do not count, since the system takes them back when it needs to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bench_distill import build_run
from benchmarks.made_photos import photo
from cache.atomic import write_checksummed_json
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed, write_tar
from pipeline.embed import EmbedParams, embed
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.pixels import PixelStore, open_pixel_store
from pipeline.students.inputs.targets import Targets
from pipeline.teacher.params import TeacherParams

PHOTOS = 500
"""Number of distinct JPEGs; more would not change the speed."""
SHARD_ROWS = 1000


def main() -> None:
    """Run each measurement in a process of its own and print a table."""
    options = _options()
    if options.child:
        print(json.dumps(_measure(options)))
        return
    print("images  workers | embed: s, images/s, MB | decode: s, images/s, MB | distill: ms an image, MB", flush=True)
    for images in options.images:
        for workers in options.workers:
            own = ["--images", str(images), "--workers", str(workers), "--threads", str(options.threads), "--child"]
            made = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True)
            found = json.loads(made.stdout.splitlines()[-1])
            cells = " | ".join(f"{seconds:7.2f} {images / seconds:7.0f} {mb:5.0f}" for seconds, mb in found["stages"])
            each, mb = found["step"]
            print(f"{images:6d} {workers:8d} | {cells} | {1000 * each:.2f} {mb:5.0f}", flush=True)


def _measure(options: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(options.threads)
    images, workers = options.images[0], options.workers[0]
    params = EmbedParams(teacher=TeacherParams(model="local-dir:presets/sample-teacher"))
    runtime = Runtime(device="cpu", workers=workers, batch=256)
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as folder:
        layout = Layout(Path(folder))
        packed = write_split(layout, "train", images)
        write_split(layout, "warm", 300)
        embed("warm", params, layout, runtime)  # exclude what is loaded once
        found = []
        with _watched() as embedding:
            embed("train", params, layout, runtime)
        found.append((embedding["seconds"], embedding["mb"]))
        with _watched() as decoding:
            pixels = open_pixel_store(packed, 64, [params.views.facts(0)], layout, runtime)
        found.append((decoding["seconds"], decoding["mb"]))
        return {"stages": found, "step": _steps(pixels, layout)}


def _steps(pixels: PixelStore, layout: Layout, count: int = 20, batch: int = 64) -> tuple[float, float]:
    """Return the seconds per image of training steps, and their memory without the targets'."""
    store = EmbeddingStore.open(layout.embeddings("train"), "size")
    targets = Targets(store.image(0).load()[None], store.boxes(0)[None], store.flips(0)[None], None, None)
    run = build_run("resnet-tiny", targets, pixels, batch, 64)
    feed, train = run.feed, run.step()
    train(feed.batch_at(0))
    with _watched() as stepping:
        for each in feed.stream(1, count + 1):
            train(each)
    return stepping["seconds"] / (count * batch), stepping["mb"]


def write_split(
    layout: Layout, split: str, count: int, size: tuple[int, int] = (64, 64), shard_rows: int = SHARD_ROWS
) -> PackedSplit:
    """Pack `count` JPEGs under distinct keys; after the first hundreds their bytes repeat."""
    folder = layout.packed(split)
    made = [photo(*size, number) for number in range(min(PHOTOS, count))]
    shards = tuple(
        write_tar(
            folder / f"shard-{at // shard_rows:05d}.tar",
            (Sample(f"{n:07d}", made[n % len(made)], "jpg") for n in range(at, min(at + shard_rows, count))),
        )
        for at in range(0, count, shard_rows)
    )
    packed = PackedSplit(folder, split, (), (), shards, {"packed": count, "captions": 0})
    write_checksummed_json(folder / "manifest.json", packed.manifest())
    return open_packed(folder)


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Measure seconds, and the peak growth of anonymous memory in MB."""
    found, over = {"seconds": 0.0, "mb": 0.0}, threading.Event()
    before = _anonymous_mb()

    def watch() -> None:
        while not over.wait(0.02):
            found["mb"] = max(found["mb"], _anonymous_mb() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - start
        over.set()
        watcher.join()


def _anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
