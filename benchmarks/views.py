"""What cached views are worth: the same student, the same steps, more views of each image, or wrong ones.

    python benchmarks/views.py --root DIR --seeds 3          # runs what is missing, then prints the table
    python benchmarks/views.py --root DIR --minutes 4        # starts no run after that: for a queue

DIR holds packed and embedded `train` (with `embed.views.crops: 8`), `val` and a zero-shot set. Each arm learns in a
space of scale and mean fitted to the very views it is given (`scale`), by mean squared error. Arms:

    center     the center view, as it is
    flipped    free augmentation: mirrored at random against the center view's target
    free       free augmentation: eight random crops and flips against the center view's target
    2, 4, 8    the center view and so many crops and flips, each against its own target

One finished run is one JSON file in DIR/views, so a stopped series goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from cache.atomic import write_json
from pipeline.evaluation.retrieval import ranks, right_pairs
from pipeline.evaluation.rules import unit
from pipeline.project.layout import Layout
from pipeline.project.params import read_document
from pipeline.project.runtime import Runtime
from pipeline.students.feed import Feed
from pipeline.students.model import Student, StudentParams
from pipeline.students.monitor import Monitor, held_out, watched
from pipeline.students.objective import LossParams
from pipeline.students.recipe import TrainingParams
from pipeline.students.splits import Split, open_split
from pipeline.students.targets import Targets, load_targets
from pipeline.students.training import Resume, train
from pipeline.students.units import build_objective
from pipeline.whitening.measure import measure
from pipeline.whitening.spaces import TargetParams, TargetSpace, fit_space

ARMS = {"center": 1, "flipped": 1, "free": 9, "2": 3, "4": 5, "8": 9}
"""Arm: how many of the cached views its pixels come from, the center view among them."""


@dataclass(frozen=True)
class World:
    """The splits of a project, opened once."""

    layout: Layout
    runtime: Runtime
    train: Split
    val: Split
    test: Split


def main() -> None:
    """Run what is missing and print what is there."""
    options = _options()
    runs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    paths = {run: options.root / "views" / f"{run[0]}-{run[1]}-{options.epochs}.json" for run in runs}
    missing = [run for run in runs if not paths[run].exists()]
    if missing:
        layout, runtime = Layout(options.root), Runtime(device="cpu", workers=0)
        splits = [open_split(name, layout, runtime) for name in ("train", "val", options.test)]
        world = World(layout, runtime, *splits)
        until = time.monotonic() + 60 * options.minutes
        for arm, seed in missing:
            if time.monotonic() < until:
                write_json(paths[arm, seed], run(world, arm, seed, options))
    _print_table({arm: [read_document(paths[arm, s]) for s in range(options.seeds) if paths[arm, s].exists()]
                  for arm in options.arms})


def run(world: World, arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one student and return what it scores."""
    space = fit(world.train, 1 if arm in ("center", "flipped", "free") else ARMS[arm])
    targets = arm_targets(world.train, space, arm)
    params = TrainingParams(epochs=options.epochs, batch=128, image_size=options.size, seed=seed, evaluations=1)
    loss = LossParams(fd=1.0)
    pixels = {
        name: split.decoded(options.size, ARMS[arm] if name == "train" else 1, world.layout, world.runtime)
        for name, split in (("train", world.train), ("val", world.val), ("test", world.test))
    }
    torch.manual_seed(seed)
    student = Student(options.student, StudentParams(learning_rate=2e-3), targets.image.shape[2])
    flip = 0.5 if arm == "flipped" else 0.0
    feed = Feed(pixels["train"], targets, params.batch, options.size, seed, torch.device("cpu"), free_flip=flip)
    val = held_out(world.val.store, pixels["val"])
    look = Monitor(
        space, options.size, 256, val, space.to_target(world.val.store.image().load()),
        watched(world.test.store, pixels["test"]),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        kept, history = train(
            student, build_objective(loss, targets), feed, look=look, params=params,
            resume=Resume(Path(folder) / "state"),
        )  # fmt: skip
    image = unit(space.to_clip(val.embed(kept, options.size, 256)))
    return {"zero_shot": history[-1]["zero_shot"], "val_nmse": history[-1]["val_nmse"], **retrieval(world.val, image)}


def fit(split: Split, views: int) -> TargetSpace:
    """Fit scale and mean to the views that are distilled."""
    rows = [split.store.image(view).load() for view in range(views)]
    return fit_space("scale", TargetParams(method="scale"), measure("l2", rows))


def arm_targets(split: Split, space: TargetSpace, arm: str) -> Targets:
    """Return what an arm learns: for `free`, the center view's target under every view's box and flip."""
    targets = load_targets(split.store, space, ARMS[arm])
    if arm != "free":
        return targets
    return replace(targets, image=np.repeat(targets.image[:1], len(targets.image), axis=0))


def retrieval(split: Split, image: np.ndarray) -> dict[str, float]:
    """Return recall at 10 in both directions, by CLIP's own rule."""
    text = unit(split.store.text().load())
    pairs = right_pairs(split.store.offsets, np.concatenate([s.caption_sha for s in split.store.shards("text")]))
    both = {"image_to_text": (image, text, pairs), "text_to_image": (text, image, pairs[:, ::-1])}
    return {f"{name} R@10": ranks(*arguments).recall(10) for name, arguments in both.items()}


def _print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print mean ± half of a 95 % interval over seeds (Student's t), and the paired difference to `center`."""
    from scipy.stats import t

    for arm, found in results.items():
        for name in found[0] if found else ():
            values = np.array([each[name] for each in found])
            paired = values - np.array([each[name] for each in results["center"][: len(values)]])
            half = t.ppf(0.975, len(values) - 1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            print(
                f"{arm:8s} {name:18s} {values.mean():.4f} ± {half * values.std(ddof=1):.4f}   "
                f"to center {paired.mean():+.4f} ± {half * paired.std(ddof=1):.4f}   n = {len(values)}"
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--test", default="cifar10", help="the zero-shot split")
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--minutes", type=float, default=1e9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
