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
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.small_runs import Scores, Small, World, finish, finished, open_world, print_table, small_options
from pipeline.students.inputs.splits import EmbeddedSplit
from pipeline.students.inputs.targets import Targets, load_targets
from pipeline.students.training.params import TrainingParams
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetParams, TargetSpace, fit_space

ARMS = {"center": 1, "flipped": 1, "free": 9, "2": 3, "4": 5, "8": 9}
"""Arm: how many of the cached views its pixels come from, the center view among them."""
NAMES = ("zero_shot", "val_nmse", "image_to_text R@10", "text_to_image R@10")


def main() -> None:
    """Run what is missing and print what is there."""
    options = small_options(__doc__, list(ARMS), epochs=8)
    runs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    paths = {run: options.root / "views" / f"{run[0]}-{run[1]}-{options.epochs}.json" for run in runs}
    if not all(path.exists() for path in paths.values()):
        world = open_world(options.root, options.test, options.device)
        finish(paths, options.minutes, lambda arm, seed, state: _run(world, arm, seed, state, options))
    for reference in ("center", "free"):
        print_table(finished(paths), reference, NAMES)


def _run(world: World, arm: str, seed: int, state: Path, options: argparse.Namespace) -> Scores:
    """Train one student and return what it scores."""
    space = fit(world.train, 1 if arm in ("center", "flipped", "free") else ARMS[arm])
    training = TrainingParams(
        epochs=options.epochs,
        batch=128,
        image_size=options.size,
        seed=seed,
        num_validations=1,
        augmentation="free",
        flip=0.5 if arm == "flipped" else 0.0,
    )
    small = Small(options.student, space, arm_targets(world.train, space, arm), training)
    return small.run(world, world.pixels(options.size, ARMS[arm]), state)


def fit(split: EmbeddedSplit, views: int) -> TargetSpace:
    """Fit scale and mean to the views that are distilled."""
    rows = [split.store.image(view).load() for view in range(views)]
    return fit_space("scale", TargetParams(method="scale"), estimate_comoments("l2", rows))


def arm_targets(split: EmbeddedSplit, space: TargetSpace, arm: str) -> Targets:
    """Return what an arm learns: for `free`, the center view's target under every view's box and flip."""
    targets = load_targets(split.store, space, ARMS[arm])
    if arm != "free":
        return targets
    return replace(targets, image=np.repeat(targets.image[:1], len(targets.image), axis=0))


if __name__ == "__main__":
    main()
