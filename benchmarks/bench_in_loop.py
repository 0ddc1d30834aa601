"""Compare distillation from the cache with the teacher in the loop, and compute when stage one is amortized.

    python benchmarks/bench_in_loop.py --size 64
    python benchmarks/bench_in_loop.py --size 224 --batch 16

The same student learns the same batches in turn: `cache` takes targets and pixels as `distill` does; `in the loop`
takes the student's pixels just so, and asks ViT-B-32 (random weights: speed does not depend on them) for the targets
of the same images, which lie in memory at the teacher's size already. `embed` is stage one on the same photos,
decoding included. It has paid for itself after n epochs with embed + n · cache = n · in the loop. Medians of ratios
within a round.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import pipeline.embed as stage
from benchmarks.bench_distill import _prepare, build_run
from benchmarks.bench_embed import _loaded
from benchmarks.rounds import options_of, processor, seconds, spread
from pipeline.data.images import decode
from pipeline.data.packing.packed import open_packed
from pipeline.data.views import apply_view, center_view
from pipeline.embed import EmbedParams
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.loader import Batch, BatchLoader
from pipeline.students.losses.objective import BatchTargets
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams


def main() -> None:
    """Measure the three and print the ratio and the epochs."""
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"{processor()}, torch {torch.__version__}; {vars(options)}", flush=True)
    teacher = load_teacher(TeacherParams(model=options.teacher, pretrained="random"), "cpu")
    with tempfile.TemporaryDirectory(prefix="bench-in-loop-") as name:
        folder = Path(name)
        targets, store, _ = _prepare(folder, options)
        run = build_run(options.student, targets, store, options.batch, options.size)
        feed, train, pixels = run.feed, run.step(), _teacher_pixels(folder, teacher)
        arms: dict[str, Callable[[], object]] = {
            "cache": lambda: _learn(train, feed.stream(0, options.steps)),
            "in the loop": lambda: _learn(train, _asked(feed, teacher, pixels, options.steps)),
            "embed": lambda: _embed(folder, teacher, options),
        }
        found = [{name: seconds(arm) for name, arm in arms.items()} for _ in range(options.rounds + 1)][1:]
    seen = {"cache": options.steps * options.batch, "in the loop": options.steps * options.batch}
    each = [{name: 1000 * s / seen.get(name, options.images) for name, s in round_.items()} for round_ in found]
    for name in arms:
        print(f"{name}: {statistics.median(r[name] for r in each):.2f} ms an image")
    ratios = [r["in the loop"] / r["cache"] for r in each]
    epochs = [r["embed"] / (r["in the loop"] - r["cache"]) for r in each]
    for said, values in (("in the loop / cache", ratios), ("epochs until stage one has paid", epochs)):
        print(f"{said}: {spread(values)}")


def _teacher_pixels(folder: Path, teacher: Teacher) -> np.ndarray:
    packed = open_packed(Layout(folder).packed("train"))
    images = [decode(s.image) for number in range(len(packed.shards)) for s in packed.read(number)]
    return np.stack([apply_view(image, center_view(*image.size), teacher.identity.image_size) for image in images])


def _asked(feed: BatchLoader, teacher: Teacher, pixels: np.ndarray, steps: int) -> Iterator[Batch]:
    for batch in feed.stream(0, steps):
        said = teacher.forward_images(pixels[batch.rows]).clone()
        yield replace(batch, targets=BatchTargets(said[:, : batch.targets.image.shape[1]].clone()))


def _learn(train: Callable[[Batch], object], batches: Iterator[Batch]) -> None:
    for batch in batches:
        train(batch)


def _embed(folder: Path, teacher: Teacher, options: argparse.Namespace) -> None:
    layout = Layout(folder)
    for work in layout.store.glob("embed-*"):
        shutil.rmtree(work) if work.is_dir() else work.unlink()
    runtime = Runtime(device="cpu", workers=options.workers, batch=options.batch)
    with _loaded(teacher):
        stage.embed("train", EmbedParams(teacher=TeacherParams(model="in-memory")), layout, runtime)


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, size=64, views=0, images=64, batch=32, steps=2)
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--teacher", default="ViT-B-32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
