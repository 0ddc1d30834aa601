"""Measure what each part of a training recipe gives: the whole recipe, and the same without one part.

    python benchmarks/ablation.py --root DIR                          # every arm, seeds 0 to 2; stop and go on at will
    python benchmarks/ablation.py --root DIR --arms full fd --seeds 1 --minutes 20

DIR holds packed and embedded `train` (with `embed.views.crops: 2`), `val` and a zero-shot split: photos-46k.yaml, with
`--set pack.limit=16000` for runs of five minutes on one core. All arms have the target space `scale`. Arms:

    full        loss `cosine`, the center view and two cached crops, stem of stride 1, moving average of the weights
    fd          FD in place of `cosine`
    center      the center view alone, for as many steps
    stride2     the published stem, of stride 2
    weights     the last weights in place of their moving average
    half        half of the epochs, with a schedule of their own
    none        without any of these

One finished run is one JSON file in DIR/ablation; the same command given twice shares the work.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.small_runs import Scores, Small, World, finish, finished, open_world, print_table, small_options
from pipeline.students.backbones import BackboneParams
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.run import ArmParams, load_run_targets
from pipeline.students.training.params import TrainingParams
from pipeline.whitening.spaces import TargetParams, fit_space

BATCH = 128
AVERAGED = 500 / 5744
"""Share of the steps that the moving average spans: 0.998 in the 5,744 steps of mobilenetv3 in photos-46k.yaml."""
NAMES = ("zero_shot", "val_nmse", "image_to_text R@10", "text_to_image R@10", "minutes")


@dataclass(frozen=True)
class Recipe:
    """The parts that an arm has; the default has all."""

    loss: str = "cosine"
    views: int = 3
    stem_stride: Literal[1, 2] = 1
    averaged: bool = True
    epochs: float = 1.0
    """In shares of the whole budget."""

    def training(self, budget: int, rows: int, size: int, seed: int) -> TrainingParams:
        """Return the training parameters of this recipe, for a budget of epochs of so many rows."""
        epochs = round(self.epochs * budget)
        span = max(1.0, AVERAGED * epochs * rows / BATCH)
        return TrainingParams(
            epochs=epochs,
            batch=BATCH,
            image_size=size,
            seed=seed,
            warmup=0.2,
            num_validations=1,
            max_views=self.views,
            ema_decay=1 - 1 / span if self.averaged else 0.0,
        )


FULL = Recipe()
ARMS = {
    "full": FULL,
    "fd": replace(FULL, loss="fd"),
    "center": replace(FULL, views=1),
    "stride2": replace(FULL, stem_stride=2),
    "weights": replace(FULL, averaged=False),
    "half": replace(FULL, epochs=0.5),
    "none": Recipe("fd", views=1, stem_stride=2, averaged=False, epochs=0.5),
}


def main() -> None:
    """Make the missing runs and print all results."""
    options = small_options(__doc__, list(ARMS), epochs=4)
    runs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    folder = options.root / "ablation"
    paths = {run: folder / f"{run[0]}-{run[1]}-{options.student}-{options.epochs}.json" for run in runs}
    if not all(path.exists() for path in paths.values()):
        world = open_world(options.root, options.test, options.device)
        finish(paths, options.minutes, lambda arm, seed, state: _run(world, ARMS[arm], seed, state, options))
    print_table(finished(paths), "full", NAMES)


def _run(world: World, recipe: Recipe, seed: int, state: Path, options: argparse.Namespace) -> Scores:
    """Train one student and return what it scores."""
    space = fit_space("scale", TargetParams(method="scale"), world.moments)
    training = recipe.training(options.epochs, world.train.store.rows, options.size, seed)
    params = StudentParams(learning_rate=2e-3, backbone=BackboneParams(stem_stride=recipe.stem_stride))
    loss = LossParams.model_validate({recipe.loss: 1.0})
    targets = load_run_targets(world.train, space, ArmParams(training, loss, params))
    small = Small(options.student, space, targets, training, params, loss)
    return small.run(world, world.pixels(options.size, recipe.views), state)


if __name__ == "__main__":
    main()
