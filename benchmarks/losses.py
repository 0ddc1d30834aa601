"""Compare sums of losses on real photos by zero-shot accuracy and retrieval.

    python benchmarks/losses.py --root DIR                        # every arm, seeds 0 to 2; stop and go on at will
    python benchmarks/losses.py --root DIR --arms fd "dual fd" --epochs 1 --seeds 1 --minutes 20

DIR holds an embedded project: train and val with captions, and a zero-shot split. Image-only students use the
teacher's cached text; `dual` ones have a text tower of their own, 4 layers of width 128 over 32 tokens. Arms:

    fd              FD alone
    fd+icl          FD and interactive contrastive learning
    fd+icl+crd      and contrastive relational distillation
    six             FD, MFD, CRD, ICL, GD and AFD
    cosine          1 − cos alone

One finished run is one JSON file in DIR/losses. `own` marks what is scored with the student's own text tower.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.small_runs import Scores, Small, World, finish, finished, open_world, print_table, small_options
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.run import ArmParams, load_run_targets
from pipeline.students.text_tower import TextParams
from pipeline.students.training.params import TrainingParams
from pipeline.whitening.spaces import TargetParams, fit_space

SUMS: dict[str, dict[str, float]] = {
    "fd": {"fd": 1.8},
    "fd+icl": {"fd": 1.8, "icl": 1.0},
    "fd+icl+crd": {"fd": 1.8, "icl": 1.0, "crd": 1.0},
    "six": {"fd": 1.8, "mfd": 1.8, "icl": 1.0, "crd": 1.0, "gd": 1.0, "afd": 1.0},
    "cosine": {"cosine": 1.0},
}
"""Weights as published: 2000 FD on unit rows of ViT-B/16 is 1.8 in units of the targets' variance."""
DUAL = "dual "
ARMS = [*SUMS, *(DUAL + name for name in SUMS)]
TEXT = TextParams(layers=4, width=128, context=32)


def main() -> None:
    """Make the missing runs and print all results."""
    options = small_options(__doc__, ARMS, epochs=10)
    folder = options.root / "losses"
    runs = [(arm, seed) for seed in range(options.seeds) for arm in options.arms]
    names = {run: f"{run[0].replace(' ', '-')}-{run[1]}-{options.student}-{options.epochs}.json" for run in runs}
    paths = {run: folder / name for run, name in names.items()}
    if not all(path.exists() for path in paths.values()):
        world = open_world(options.root, options.test, options.device)
        finish(paths, options.minutes, lambda arm, seed, state: _run(world, arm, seed, state, options))
    print_table(finished(paths), "fd")


def _run(world: World, arm: str, seed: int, state: Path, options: argparse.Namespace) -> Scores:
    dual, loss = arm.startswith(DUAL), LossParams.model_validate(SUMS[arm.removeprefix(DUAL)])
    text = TEXT if dual else None
    space = fit_space("scale", TargetParams(method="scale"), world.moments)
    training = TrainingParams(
        epochs=options.epochs, batch=128, image_size=options.size, seed=seed, warmup=0.3, num_validations=5, max_views=1
    )
    params = StudentParams(learning_rate=2e-3, text=text)
    targets = load_run_targets(world.train, space, ArmParams(training, loss, params))
    small = Small(options.student, space, targets, training, params, loss)
    return small.run(world, world.pixels(options.size), state)


if __name__ == "__main__":
    main()
