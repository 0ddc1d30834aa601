"""Compare streamed with stored pixels: speed, and accuracy after equal epochs.

    python benchmarks/bench_streamed.py                    # pace beside its own bound, drawn photos of 256 px in tars
    python benchmarks/bench_streamed.py --accuracy         # the sample, three seeds, stored and streamed

Pace: the same batches are decoded by the same worker processes without a step (`decode`), trained on without decoding
(`step`, one batch repeated), and streamed into training (`streamed`). Workers and the training process have their own
cores, so no order of work is faster than the slower of the first two: that is the bound, and the ratio is bound over
streamed, within a round. On a machine that others use too, the two do not get their cores; processor seconds, of the
process and its workers, say what streaming adds to the work itself: those of `decode` and `step` together over those of
`streamed`. `stored` takes the same steps from decoded images on disk.

Accuracy: the sample's student in one target space, each seed trained on stored and on streamed pixels with a shuffle
buffer of two shards of eight, zero-shot accuracy on the badges at the end. Printed are both means, and the mean
difference with its 95 % interval over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bench_distill import build_run
from benchmarks.bench_reference import draw_tars
from benchmarks.rounds import processor, spread
from pipeline.comparison.statistics import paired_t_interval
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.distill import distill, read_params
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.layout import HISTORY, Layout
from pipeline.project.params import Runtime
from pipeline.project.project import Project
from pipeline.students.inputs.loader import Batch
from pipeline.students.inputs.pixels import open_pixel_store
from pipeline.students.inputs.streamed_pixels import StreamedPixels
from pipeline.students.inputs.targets import Targets
from pipeline.whiten import TargetParams, whiten

ROOT = Path(__file__).parent.parent
DIM = 512
VIEW = [{"kind": "center"}]


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-streamed-", dir=options.folder) as folder:
        (measure_accuracy if options.accuracy else measure_pace)(Path(folder), options)


def measure_pace(folder: Path, options: argparse.Namespace) -> None:
    """Print how near streaming comes to its bound."""
    layout, runtime = Layout(folder), Runtime(workers=options.workers)
    source = parse_source({"source": "tars", "tars": str(draw_tars(folder / "tars", options.photos))}, "index.train")
    index("train", source, layout)
    pack("train", source, PackParams(mode="reference"), layout, runtime)
    packed = open_packed(layout.packed("train"))
    streamed = StreamedPixels.open(packed, options.size, VIEW, runtime)
    stored = open_pixel_store(packed, options.size, VIEW, layout, runtime)
    targets = _made_targets(packed.rows, stored.kept_box)
    loaders = {
        name: build_run(options.student, targets, pixels, options.batch, options.size)
        for name, pixels in (("streamed", streamed), ("stored", stored))
    }
    step, feed = loaders["streamed"].step(), loaders["streamed"].feed
    batch, steps = feed.batch_at(0), options.steps
    arms: dict[str, Callable[[], tuple[float, float]]] = {
        "decode": lambda: _paced(feed.stream(0, steps + 1), lambda _: None),
        "step": lambda: _paced((batch for _ in range(steps + 1)), step),
        "streamed": lambda: _paced(feed.stream(0, steps + 1), step),
        "stored": lambda: _paced(loaders["stored"].feed.stream(0, steps + 1), loaders["stored"].step()),
    }
    rounds = [{name: arm() for name, arm in arms.items()} for _ in range(options.rounds + 1)][1:]
    images = steps * options.batch
    for name in arms:
        print(f"{name}: {images / np.median([found[name][0] for found in rounds]):.0f} images a second")
    wall = [max(found["step"][0], found["decode"][0]) / found["streamed"][0] for found in rounds]
    work = [(found["step"][1] + found["decode"][1]) / found["streamed"][1] for found in rounds]
    print(f"streamed against its bound: {spread(wall)} of wall seconds, {spread(work)} of processor seconds")


def _paced(batches: Iterable[Batch], step: Callable[[Batch], object]) -> tuple[float, float]:
    """Return wall and processor seconds of all batches but the first, which waits for processes to start."""
    batches = iter(batches)
    step(next(batches))
    began, used = time.perf_counter(), _processor_seconds()
    for batch in batches:
        step(batch)
        wall, work = time.perf_counter() - began, _processor_seconds() - used  # while the workers still live
    return wall, work


def _processor_seconds() -> float:
    """Return those of this process and of the worker processes that it has now."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    fields = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split() for pid in pids]
    return sum(int(found[11]) + int(found[12]) for found in fields) / os.sysconf("SC_CLK_TCK")


def _made_targets(rows: int, boxes: np.ndarray) -> Targets:
    image = np.random.default_rng(0).standard_normal((1, rows, DIM)).astype(np.float32)
    return Targets(image, np.array(boxes)[None], np.zeros((1, rows), bool), None, None)


def measure_accuracy(folder: Path, options: argparse.Namespace) -> None:
    """Print zero-shot accuracy after equal epochs, streamed and stored."""
    project = Project.open(ROOT / "presets/sample.yaml", [], folder)
    layout, runtime = project.layout, project.runtime.model_copy(update={"workers": options.workers})
    for split in ("train", "val", "badges"):
        source = parse_source(project.get(f"index.{split}"), f"index.{split}")
        index(split, source, layout)
        pack(split, source, project.section("pack", PackParams), layout, runtime)
        embed(split, project.section("embed", EmbedParams), layout, runtime)
    moments(project.section("moments", MomentsParams), layout, runtime)
    whiten("scale", TargetParams(method="scale"), layout)
    found: dict[str, list[float]] = {"stored": [], "streamed": []}
    for seed in range(options.seeds):
        for mode, scores in found.items():
            scores.append(_trained(project, mode, seed, runtime, options.epochs))
            print(f"seed {seed}, {mode}: {scores[-1]:.4f}", flush=True)
    interval = paired_t_interval(np.subtract(found["streamed"], found["stored"]))
    means = {mode: np.mean(scores) for mode, scores in found.items()}
    print(f"stored {means['stored']:.4f}, streamed {means['streamed']:.4f}: difference {interval.mean:+.4f} "
          f"± {interval.high - interval.mean:.4f} over {interval.pairs} seeds")  # fmt: skip


def _trained(project: Project, mode: str, seed: int, runtime: Runtime, epochs: int) -> float:
    params = read_params(project, "resnet-tiny")
    changes = {"pixels": mode, "seed": seed, "epochs": epochs, "shuffle_buffer": 1000}
    training = params.training.model_copy(update=changes)
    out = project.layout.run(f"{mode}-{seed}")
    distill("resnet-tiny", "scale", params.model_copy(update={"training": training}), project.layout, runtime, out)
    with (out / HISTORY).open(encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["zero_shot"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", action="store_true", help="accuracy on the sample instead of pace")
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="where to work")
    return parser.parse_args()


if __name__ == "__main__":
    main()
