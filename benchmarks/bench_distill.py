"""Compare the training steps of `distill` with the bare training step and with a plain data loader.

    python benchmarks/bench_distill.py --student mobilenetv3 --size 64            # the center view
    python benchmarks/bench_distill.py --student mobilenetv3 --size 64 --views 4  # replayed crops and flips

Three arms train the same student on the same COCO-sized JPEGs, in turn, in one process: `bare` repeats one batch that
is already a tensor; `distill` takes its batches from the pixel store and the whitened targets, as the stage does;
`plain` opens, decodes, resizes and normalises each image at each step, as the notebooks do, with targets from a
.npy file. A ratio above 1 would say faster than the arm it is held against. Ratios are taken within a round, of
seconds and of processor seconds; their medians are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.made_photos import photo
from benchmarks.rounds import options_of, spread
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.data.views import ViewParams, center_view, random_view
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.loader import Batch, BatchLoader, PixelSource
from pipeline.students.inputs.pixels import PixelStore, open_pixel_store
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import BatchTargets, LossParams
from pipeline.students.model import StudentParams
from pipeline.students.run import ArmParams, TrainingRun
from pipeline.students.text_tower import TextParams
from pipeline.students.training.params import Precision, TrainingParams

DIM = 512
COCO = (640, 480)
"""Width and height of most COCO photos."""
FD = LossParams(fd=1.0)
CPU = torch.device("cpu")


def main() -> None:
    """Measure the three arms and print two ratios."""
    options = _options()
    torch.set_num_threads(options.threads)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{options.threads} threads; {versions}; {vars(options)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-distill-") as folder:
        targets, pixels, files = _prepare(Path(folder), options)
        run = build_run(options.student, targets, pixels, options.batch, options.size)
        feed, train = run.feed, run.step()
        batch, steps = feed.batch_at(0), range(options.steps)
        arms: dict[str, Callable[[], Iterator[Batch]]] = {
            "bare": lambda: (batch for _ in steps),
            "distill": lambda: feed.stream(0, options.steps),
            "plain": lambda: (_plain(files, feed, Path(folder), step) for step in steps),
        }
        measured = [(name, train, arm) for name, arm in arms.items()] + [("decoding", lambda _: None, arms["plain"])]
        rounds = range(options.rounds + 1)
        seconds = [{name: _timed(step, arm) for name, step, arm in measured} for _ in rounds][1:]
    images = options.steps * feed.batch
    for name in (*arms, "decoding"):
        found = [round_[name] for round_ in seconds]
        each = ", ".join(f"{1000 * statistics.median(values) / images:.2f} ms" for values in zip(*found, strict=True))
        print(f"{name}: {each} an image (wall, processor)")
    for name, against in (("distill", "bare"), ("distill", "plain")):
        ratios = [[r[against][clock] / r[name][clock] for r in seconds] for clock in (0, 1)]
        said = [spread(values) for values in ratios]
        print(f"{name} against {against}: {said[0]} of wall seconds, {said[1]} of processor seconds")
    ceilings = [1 + r["decoding"][0] / r["bare"][0] for r in seconds]
    print(f"ceiling of distill against plain, (bare step + decoding) / bare step: {statistics.median(ceilings):.2f}")


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, size=64, views=0, images=512, batch=128, steps=4)
    parser.add_argument("--student", default="mobilenetv3")
    return parser.parse_args()


def _prepare(folder: Path, options: argparse.Namespace) -> tuple[Targets, PixelStore, list[Path]]:
    """Write photo-sized JPEGs, pack and decode them, and make random targets."""
    (folder / "images").mkdir()
    draw, (width, height) = np.random.default_rng(0), COCO
    for number in range(options.images):
        (folder / "images" / f"{number:05d}.jpg").write_bytes(photo(width, height, number))
    layout, runtime = Layout(folder), Runtime(workers=options.workers)
    source = parse_source({"source": "images", "images": str(folder / "images")}, "index.train")
    index("train", source, layout)
    pack("train", source, PackParams(), layout, runtime)
    views, keys = ViewParams(crops=options.views), [f"{number:05d}" for number in range(options.images)]
    shown = range(1, options.views + 1) if options.views else (0,)
    chosen = [[random_view(views, key, v, *COCO) if v else center_view(*COCO) for key in keys] for v in shown]
    image = draw.standard_normal((len(chosen), options.images, DIM)).astype(np.float32)
    np.save(folder / "targets.npy", image[0])
    targets = Targets(
        image=image,
        boxes=np.array([[view.box for view in row] for row in chosen], np.float32),
        flips=np.array([[view.flip for view in row] for row in chosen]),
        text=None,
        offsets=None,
    )
    facts = [views.facts(v) for v in shown]
    pixels = open_pixel_store(open_packed(layout.packed("train")), options.size, facts, layout, runtime)
    return targets, pixels, sorted((folder / "images").iterdir())


def build_run(  # noqa: PLR0917  what benchmarks vary
    student: str,
    targets: Targets,
    pixels: PixelSource,
    batch: int,
    size: int,
    device: torch.device = CPU,
    precision: Precision = "fp32",
    *,
    text: TextParams | None = None,
    loss: LossParams = FD,
) -> TrainingRun:
    """Build a training run as `distill` does, on random targets."""
    training = TrainingParams(batch=batch, image_size=size, precision=precision)
    recipe = ArmParams(training, loss, StudentParams(learning_rate=1e-3, text=text))
    return TrainingRun.build(student, recipe, targets, pixels, device)


def _plain(files: list[Path], feed: BatchLoader, folder: Path, step: int) -> Batch:
    """Make a batch like a plain data set: each image is opened, decoded, cropped and resized."""
    rows = np.arange(step * feed.batch, (step + 1) * feed.batch) % len(files)
    targets, pictures, wanted = np.load(folder / "targets.npy", mmap_mode="r"), [], []
    for row in rows:
        with Image.open(files[row]) as image:
            left = (image.width - image.height) // 2
            square = image.convert("RGB").crop((left, 0, left + image.height, image.height))
        pictures.append(torch.from_numpy(np.array(square.resize((feed.size, feed.size), Image.Resampling.BICUBIC))))
        wanted.append(torch.from_numpy(np.array(targets[row])))
    return Batch(rows, torch.stack(pictures), BatchTargets(torch.stack(wanted)))


def _timed(train: Callable[[Batch], object], batches: Callable[[], Iterator[Batch]]) -> tuple[float, float]:
    """Return wall and processor seconds of training on the batches of an arm."""
    wall, processor = time.perf_counter(), time.process_time()
    for batch in batches():
        train(batch)
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
