"""Compare `embed` with the teacher's bare forward pass, and measure the cost of captions, views and added views.

    python benchmarks/bench_embed.py images      # ViT-B-32, COCO-sized JPEGs, against the bare forward pass
    python benchmarks/bench_embed.py sample      # the sample teacher, against plain decode-and-forward
    python benchmarks/bench_embed.py captions    # ViT-B-32, against every caption at full length
    python benchmarks/bench_embed.py views       # 4 more views, against these four alone; size and time of each

Both sides run in this process, in turn, with the same threads, batch and loaded teacher; ratios are taken within a
round and their median is printed, of seconds and of processor seconds (which a busy machine disturbs less).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import PIL
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import pipeline.embed as stage
from benchmarks.made_photos import WORDS, write_photos
from benchmarks.rounds import processor
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import ViewParams, apply_view, center_view
from pipeline.embed import EmbedParams
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.teacher import plan
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.parts import PartBuild, plan_parts

Arm = Callable[[], object]


def main() -> None:
    """Measure one claim and print it."""
    options = _options()
    torch.set_num_threads(options.threads)
    print(
        f"{processor()}, {options.threads} threads; Python {platform.python_version()}, torch {torch.__version__}, "
        f"pillow {PIL.__version__}; batch {options.batch}, {options.workers} workers, {options.rounds} rounds",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        {"images": images, "sample": sample, "captions": captions, "views": views}[options.claim](
            options, Layout(Path(folder))
        )


def images(options: argparse.Namespace, layout: Layout) -> None:
    """Compare `embed` on JPEGs with the bare forward pass on tensors in memory, and print the share of decoding."""
    teacher = load_teacher(TeacherParams(model="ViT-B-32", pretrained="random"), "cpu")
    packed = write_photos(layout, options.images, (640, 480))
    pixels = np.stack(list(_pixels(packed, teacher.identity.image_size)))
    tensors = [
        teacher._normalized(torch.from_numpy(part).permute(0, 3, 1, 2)).contiguous()
        for part in np.split(pixels, range(options.batch, len(pixels), options.batch))
    ]
    arms: dict[str, Arm] = {
        "bare forward": lambda: _bare(teacher, tensors),
        "embed": lambda: _embed(options, layout, teacher, 0),
        "decode alone": lambda: deque(_pixels(packed, teacher.identity.image_size), maxlen=0),
    }
    compare(options.rounds, options.images, arms)


def sample(options: argparse.Namespace, layout: Layout) -> None:
    """Compare `embed` with a plain loop that decodes a batch and embeds it."""
    teacher = load_teacher(TeacherParams(model=options.teacher), "cpu")
    size = teacher.identity.image_size
    packed = write_photos(layout, options.images, (size, size))

    def plain() -> None:
        pixels = _pixels(packed, size)
        while batch := [image for image, _ in zip(pixels, range(options.batch), strict=False)]:
            teacher.embed_images(np.stack(batch))

    arms: dict[str, Arm] = {"plain loop": plain, "embed": lambda: _embed(options, layout, teacher, 0)}
    compare(options.rounds, options.images, arms)


def captions(options: argparse.Namespace, _: Layout) -> None:
    """Compare deduplicated, length-sorted, truncated captions with all captions at full length."""
    from pipeline.teacher.shards import embed_unique_texts

    teacher = load_teacher(TeacherParams(model="ViT-B-32", pretrained="random"), "cpu")
    rng = np.random.default_rng(0)
    lengths = rng.poisson(9, options.images) + 4  # COCO's captions: 10.5 words, few above 20
    tokens = teacher.tokenize([" ".join(rng.choice(WORDS, n)) for n in lengths])

    def plain() -> None:
        with torch.inference_mode():
            for start in range(0, len(tokens), options.batch):
                cast(Any, teacher.model).encode_text(torch.from_numpy(tokens[start : start + options.batch]).long())

    arms: dict[str, Arm] = {"full length": plain, "cut": lambda: embed_unique_texts(teacher, tokens, options.batch)}
    compare(options.rounds, options.images, arms)


def views(options: argparse.Namespace, layout: Layout) -> None:
    """Compare adding crops 5 to 8 with those four alone, and print the cost of each number of crops."""
    teacher = load_teacher(TeacherParams(model=options.teacher), "cpu")
    size = teacher.identity.image_size
    write_photos(layout, options.images, (2 * size, 2 * size))
    for crops in (0, 2, 4, 8):
        shutil.rmtree(layout.store, ignore_errors=True)
        seconds, _ = _timed(partial(_embed, options, layout, teacher, crops, fresh=False))
        out = layout.embeddings("train")
        size = sum(path.stat().st_size for path in out.rglob("*.h5"))
        print(f"{crops} crops: {1000 * seconds / options.images:.2f} ms, {size / options.images:.0f} bytes an image")

    def grow() -> None:
        _embed(options, layout, teacher, 8, fresh=False)

    def before_growing() -> None:
        shutil.rmtree(layout.store, ignore_errors=True)
        _embed(options, layout, teacher, 4, fresh=False)

    ratios = []
    for _ in range(options.rounds):
        shutil.rmtree(layout.store)
        alone = _timed(lambda: _embed_only(options, layout, teacher, range(5, 9)))
        before_growing()
        grown = _timed(grow)
        ratios.append([g / a for g, a in zip(grown, alone, strict=True)])
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"growing from 4 to 8 / the four alone: {wall:.3f} (processor {cpu:.3f}), at most 1.1")


def compare(rounds: int, rows: int, arms: dict[str, Arm]) -> None:
    """Print each arm's time per row, and the first arm's time divided by it."""
    for arm in arms.values():
        arm()
    found = [{name: _timed(arm) for name, arm in arms.items()} for _ in range(rounds)]
    first = next(iter(arms))
    for name in arms:
        wall, cpu = (statistics.median(each[name][i] for each in found) for i in (0, 1))
        ratio, of_cpu = (statistics.median(each[first][i] / each[name][i] for each in found) for i in (0, 1))
        print(
            f"{name:14s} {1000 * wall / rows:8.2f} ms a row, {1000 * cpu / rows:8.2f} processor ms; "
            f"{first} / this: {ratio:.3f} (processor {of_cpu:.3f})",
            flush=True,
        )


def _pixels(packed: PackedSplit, size: int) -> Iterator[np.ndarray]:
    for number in range(len(packed.shards)):
        for each in packed.read(number):
            image = decode(each.image)
            yield apply_view(image, center_view(*image.size), size)


def _bare(teacher: Teacher, tensors: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        for tensor in tensors:
            cast(Any, teacher.model).encode_image(tensor)


def _embed(options: argparse.Namespace, layout: Layout, teacher: Teacher, crops: int, fresh: bool = True) -> None:
    if fresh:
        shutil.rmtree(layout.store, ignore_errors=True)
    params = EmbedParams(teacher=TeacherParams(model="in-memory"), views=ViewParams(crops=crops))
    runtime = Runtime(device="cpu", workers=options.workers, batch=options.batch)
    with _loaded(teacher):
        stage.embed("train", params, layout, runtime)


def _embed_only(options: argparse.Namespace, layout: Layout, teacher: Teacher, wanted: range) -> None:
    """Embed only some views, like a project that has only these."""

    def some_parts(*arguments: Any) -> list[PartBuild]:
        return [part for part in plan_parts(*arguments) if int(part.name[-2:]) in wanted]

    with patch.object(plan, "plan_parts", some_parts):
        _embed(options, layout, teacher, max(wanted), fresh=False)


@contextmanager
def _loaded(teacher: Teacher) -> Iterator[None]:
    """Pass the loaded teacher to the stage, so that loading is excluded on both sides."""
    with patch.object(stage, "load_teacher", lambda *_: teacher):
        yield


def _timed(arm: Arm) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    arm()
    return time.perf_counter() - wall, time.process_time() - cpu


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=("images", "sample", "captions", "views"))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--teacher", default="local-dir:presets/sample-teacher")
    return parser.parse_args()


if __name__ == "__main__":
    main()
