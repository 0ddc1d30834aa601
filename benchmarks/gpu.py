"""Measure stage one and stage two on a GPU at COCO's size, on generated photos.

    benchmarks/gpu.sh            # all of it
    benchmarks/gpu.sh --dry      # small, on the processor

`embed`: ViT-B-16 at random weights on JPEGs of 640 × 480, decoded in full, against its bare forward pass on tensors
that lie on the device already, in the same precision and batch (found by trying); medians of rounds taken in turn.
`distill`: the decode-once pass, then whole epochs of each student at 224 px, batch 512, bf16, after some steps to warm
up, with the pixels where the stage itself puts them. A step that finds no time left says so instead of a figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import pipeline.embed as stage
from benchmarks.bench_distill import build_run
from benchmarks.bench_embed import _loaded
from benchmarks.bench_growth import write_split
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import ViewParams, center_view
from pipeline.embed import EmbedParams
from pipeline.project.device import choose_device
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.gpu_pixels import GpuPixelStore
from pipeline.students.inputs.pixels import PixelStore, open_pixel_store
from pipeline.students.inputs.targets import Targets
from pipeline.teacher.batch_size import find_batch_size
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams

Found = TypeVar("Found")
BUDGET_SECONDS = 570.0
WIDTH, HEIGHT, DIM = 640, 480, 512


def main() -> None:
    """Run the steps in turn and print one line for each claim."""
    options, started = _options(), time.monotonic()
    device = choose_device("cpu" if options.dry else "cuda")
    workers = len(os.sched_getaffinity(0))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
    print(f"{name}, {workers} cores, torch {torch.__version__}; {vars(options)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-", dir=options.folder) as folder:
        layout, runtime = Layout(Path(folder)), Runtime(device=str(device), workers=workers, teacher_batch="auto")
        for precision in options.precisions:
            _step(started, f"embed {options.teacher} {precision}", partial(_embed, layout, runtime, precision, options))
        packed = _step(started, "photos", lambda: write_split(layout, "train", options.images, (WIDTH, HEIGHT)))
        pixels = _step(started, "decode once", partial(_decode, packed, layout, runtime, options)) if packed else None
        if pixels:
            for student, goal in (("resnet18", 20), ("mobilenetv3", 15)):
                _step(started, student, partial(_epochs, student, goal, pixels, device, options))


def _step(started: float, name: str, work: Callable[[], Found]) -> Found | None:
    """Run one piece of work, unless the time is up, and print its duration."""
    begun = time.monotonic()
    if begun - started > BUDGET_SECONDS:
        print(f"{name}: not run, the time is up")
        return None
    found = work()
    print(f"[{name}: {time.monotonic() - begun:.1f} s in all, {time.monotonic() - started:.0f} s so far]", flush=True)
    return found


def _embed(layout: Layout, runtime: Runtime, precision: str, options: argparse.Namespace) -> None:
    """Compare `embed` with the bare forward pass."""
    params = TeacherParams(model=options.teacher, pretrained="random", precision=cast(Any, precision))
    teacher, count = load_teacher(params, runtime.device), options.embedded
    packed = write_split(layout, "part", count, (WIDTH, HEIGHT), shard_rows=min(count, 4096))
    batch = find_batch_size(teacher, packed.max_shard_rows)
    runtime = runtime.model_copy(update={"teacher_batch": batch})
    size = teacher.identity.image_size
    noise = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=teacher.device)
    pixels = teacher._normalized(noise.permute(0, 3, 1, 2)).contiguous()
    arms = {"bare": lambda: _bare(teacher, pixels, count), "embed": lambda: _stage(layout, runtime, teacher)}
    found = [{name: _seconds(arm, teacher.device) for name, arm in arms.items()} for _ in range(options.rounds + 1)][1:]
    rate = {name: count / statistics.median(round_[name] for round_ in found) for name in arms}
    ratio = statistics.median(round_["bare"] / round_["embed"] for round_ in found)
    print(
        f"embed {options.teacher} {precision}, batch {batch}: {rate['embed']:.0f} images/s, "
        f"bare {rate['bare']:.0f}/s; ratio {ratio:.3f} (goal 0.9)",
        flush=True,
    )


def _bare(teacher: Teacher, pixels: torch.Tensor, count: int) -> None:
    with torch.inference_mode(), teacher._autocast():
        for start in range(0, count, len(pixels)):
            cast(Any, teacher.model).encode_image(pixels[: count - start])


def _stage(layout: Layout, runtime: Runtime, teacher: Teacher) -> None:
    for work in layout.store.glob("embed-*"):
        shutil.rmtree(work) if work.is_dir() else work.unlink()
    with _loaded(teacher):
        stage.embed("part", EmbedParams(teacher=TeacherParams(model="in-memory")), layout, runtime)


def _decode(packed: PackedSplit, layout: Layout, runtime: Runtime, options: argparse.Namespace) -> PixelStore:
    """Decode all photos into the pixel store, once."""
    return open_pixel_store(packed, options.size, [ViewParams().facts(0)], layout, runtime)


def _epochs(student: str, goal: int, pixels: PixelStore, device: torch.device, options: argparse.Namespace) -> None:
    """Print the seconds of whole epochs."""
    draw, count = np.random.default_rng(0), len(pixels)
    view = center_view(WIDTH, HEIGHT)
    targets = Targets(
        image=draw.standard_normal((1, count, DIM), dtype=np.float32),
        boxes=np.tile(np.array(view.box, np.float32), (1, count, 1)),
        flips=np.zeros((1, count), bool),
        text=None,
        offsets=None,
    )
    run = build_run(student, targets, pixels, options.batch, options.size, device, options.training_precision)
    feed, train = run.feed, run.step()

    def epoch(steps: int) -> None:
        for batch in feed.stream(0, steps):
            train(batch)

    epoch(min(20, feed.epoch_steps))
    seconds = [_seconds(lambda: epoch(feed.epoch_steps), device) for _ in range(options.epochs)]
    where = "on the device" if isinstance(feed._source, GpuPixelStore) else "in main memory"
    each = ", ".join(f"{s:.1f}" for s in seconds)
    print(
        f"{student} at {options.size} px, {options.training_precision}, pixels {where}: {each} s an epoch of {count} "
        f"images, median {statistics.median(seconds):.1f} s (goal {goal} s on one H100)",
        flush=True,
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="small, on the processor")
    parser.add_argument("--folder", type=Path, help="where 40 GB fit; default: the system's temporary folder")
    dry = parser.parse_known_args()[0].dry
    parser.add_argument("--images", type=int, default=48 if dry else 118_287)
    parser.add_argument("--embedded", type=int, default=12 if dry else 8192)
    parser.add_argument("--teacher", default="ViT-B-32" if dry else "ViT-B-16")
    parser.add_argument("--precisions", nargs="+", default=["fp32"] if dry else ["fp32", "bf16"])
    parser.add_argument("--training-precision", default="fp32" if dry else "bf16")
    parser.add_argument("--size", type=int, default=64 if dry else 224)
    parser.add_argument("--batch", type=int, default=16 if dry else 512)
    parser.add_argument("--rounds", type=int, default=1 if dry else 5)
    parser.add_argument("--epochs", type=int, default=1 if dry else 3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
