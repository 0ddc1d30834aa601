"""Students that learn the teacher's tokens beside students that do not: relations, zero-shot, retrieval, and the price.

    python benchmarks/dense_students.py --root DIR                    # what is missing, then the table
    python benchmarks/dense_students.py --root DIR --seeds 5 --minutes 20

DIR is a project with tokens of the training pictures: benchmarks/dense-students.yaml. A seed decides the weights of a
student and the order of its pictures, the choices of the drawn world that scorers are fitted and measured on, and the
scorers' weights, so arms are paired by seed. A scorer of kind `dcsm` is fitted for each task on the teacher's tokens,
against the texts of its own group. Students are scored by it as it is (`teacher's`), and by one that begins with it and
is fitted further on the student's own tokens of the same choices (`own`). Arms:

    teacher    the teacher itself
    plain      resnet-tiny, `fd` alone
    dense      `fd` and `dense`, on the teacher's grid

Each finished arm is one JSON file in DIR/dense-students. `minutes of training` are processor time; a student that was
cut off and went on has none. Beside the arms: bytes an image of the cache, and what tokens cost on the device.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.dense_cost import print_costs
from benchmarks.relation_sets import COLUMNS, RelationSet, SetSizes, accuracy_by_task, open_reader, read_sets
from benchmarks.small_runs import Scores, World, finish, finished, open_world, print_table, retrieval
from cache.normalization import l2_normalize
from pipeline.data.synthetic.relations import TASKS
from pipeline.distill import DistillParams, distill
from pipeline.evaluation.scoring_rules import image_vectors, predict_classes, prompt_vectors
from pipeline.project.layout import HISTORY, WEIGHTS
from pipeline.relations.fitting import fit_scorer
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import CosineScorer, Scorer, build_scorer
from pipeline.students.checkpoint import load_student
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import center_views, embed_pixels
from pipeline.students.model import Student

STUDENT, TARGET, SIZE = "resnet-tiny", "scale", 64
PARTS = {"relations-val": "", "relations-unseen": " unseen"}


@dataclass(frozen=True)
class Relations:
    """The drawn choices of a seed with the teacher's tokens, and a scorer for each task fitted on them."""

    sets: dict[str, RelationSet]
    params: ScorerParams
    scorers: dict[str, Scorer]


def main() -> None:
    """Run what is missing and print what is there."""
    options = _options()
    arms = {
        "teacher": {},
        "plain": {"loss": {"fd": 1.0}, "own": {}},
        "dense": {"loss": {"fd": 1.0, "dense": 1.0}, "own": {"patches": True, "grid": options.grid}},
    }
    folder = options.root / "dense-students"
    paths = {(arm, seed): folder / f"{arm}-{seed}.json" for seed in range(options.seeds) for arm in arms}
    world = open_world(options.root, options.test)
    finish(paths, options.minutes, lambda arm, seed, _: run_arm(world, arm, arms[arm], seed, options))
    print_table(finished(paths), "plain")
    student = folder / "dense-0"
    if (student / WEIGHTS).exists():
        print_costs(load_student(student), world.train.store, options.grid)


def run_arm(world: World, arm: str, recipe: Mapping[str, Any], seed: int, options: argparse.Namespace) -> Scores:
    """Train a student, unless the arm is the teacher, and measure it."""
    relations = open_relations(options, seed)
    if not recipe:
        own = accuracies(relations.sets, relations.scorers, relations.params, "own")
        plain = accuracies(relations.sets, dict.fromkeys(TASKS, CosineScorer()), relations.params, "cosine")
        return {**whole_scores(world, world.val.store.image().load(), world.test.store.image().load()), **plain, **own}
    out = options.root / "dense-students" / f"{arm}-{seed}"
    trained = train_student(world, recipe, seed, options, out)
    student = load_student(out)
    return {**trained, **student_scores(world, student), **relation_scores(student, relations, options.grid)}


def train_student(world: World, recipe: Mapping[str, Any], seed: int, options: argparse.Namespace, out: Path) -> Scores:
    """Train a student as the stage does; return its last validation and the processor time of its training."""
    world.pixels(SIZE)  # decoded once for all arms, outside the measured time
    training = {"epochs": options.epochs, "batch": 64, "image_size": SIZE, "seed": seed, "num_validations": 1}
    own = {"learning_rate": 3e-3, **recipe["own"]}
    params = DistillParams.model_validate({"training": training, "loss": recipe["loss"], "student": own})
    whole = not list(world.layout.store.glob("**/state.safetensors")) and not (out / WEIGHTS).exists()
    start = time.process_time()
    distill(STUDENT, TARGET, params, world.layout, world.runtime, out)
    seconds = time.process_time() - start
    last = list(csv.DictReader((out / HISTORY).read_text(encoding="utf-8").splitlines()))[-1]
    found = {name: float(last[name]) for name in ("val_nmse", "dense") if name in last}
    return {**found, **({"minutes of training": seconds / 60} if whole else {})}


@lru_cache(maxsize=1)
def _relations(teacher: str, grid: int, sizes: SetSizes, epochs: int, seed: int) -> Relations:
    sets = read_sets(open_reader(teacher, grid), sizes, seed)
    params = ScorerParams(kind="dcsm", epochs=epochs, groups=8, negatives="group", columns=COLUMNS, seed=seed)
    return Relations(sets, params, fit_each(sets["relations-train"], params))


def open_relations(options: argparse.Namespace, seed: int) -> Relations:
    """Draw the choices of a seed and fit the teacher's scorers; those of the last seed are kept."""
    sizes = SetSizes(options.quadruples, options.held_out)
    return _relations(options.teacher, options.grid, sizes, options.scorer_epochs, seed)


def fit_each(train: RelationSet, params: ScorerParams, start: Mapping[str, Scorer] | None = None) -> dict[str, Scorer]:
    """Fit a scorer for each task, from weights of its own or from those of other scorers."""
    scorers = {}
    for task in train.choices.tasks:
        part = train.of_tasks([task])
        scorer = build_scorer(params, part.tokens.text_pooled.shape[1], part.tokens.patches.shape[1])
        if start:
            scorer.load_state_dict(start[task].state_dict())
        fit_scorer(scorer, part.choices, part.with_params(params), params)
        scorers[task] = scorer
    return scorers


def with_tokens_of(student: Student, part: RelationSet, grid: int) -> RelationSet:
    """Return the same choices with a student's images in place of the teacher's; texts stay."""
    patches = embed_places(student, part.pixels, grid).astype(np.float16)
    return replace(part, tokens=replace(part.tokens, image_pooled=embed_pixels(student, part.pixels), patches=patches))


def relation_scores(student: Student, relations: Relations, grid: int) -> Scores:
    """Return text accuracy on each task by cosine, by the teacher's scorer, and by one fitted on the student."""
    sets = {name: with_tokens_of(student, part, grid) for name, part in relations.sets.items()}
    own = fit_each(sets["relations-train"], relations.params, relations.scorers)
    scored = partial(accuracies, sets, params=relations.params)
    return {
        **scored(dict.fromkeys(TASKS, CosineScorer()), name="cosine"),
        **scored(relations.scorers, name="teacher's"),
        **scored(own, name="own"),
    }


def accuracies(
    sets: Mapping[str, RelationSet], scorers: Mapping[str, Scorer], params: ScorerParams, name: str
) -> Scores:
    """Return text accuracy by task and held-out part."""
    return {
        f"{task} {name}{suffix}": accuracy[0]
        for part, suffix in PARTS.items()
        for task, accuracy in accuracy_by_task(scorers, sets[part], params).items()
    }


def student_scores(world: World, student: Student) -> Scores:
    """Return zero-shot accuracy and retrieval of a student."""
    pixels = world.pixels(SIZE)
    val, test = (
        center_views(split.store, pixels[name]).embed(student, SIZE, 256)
        for name, split in (("val", world.val), ("test", world.test))
    )
    return whole_scores(world, val, test)


def whole_scores(world: World, val: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"]) -> Scores:
    """Return zero-shot accuracy and retrieval of embeddings in CLIP space, by CLIP's rule."""
    classes = prompt_vectors("clip", world.test.store.prompts(), {})
    right = predict_classes(image_vectors("clip", test, {}), classes) == world.test.store.labels
    texts = l2_normalize(world.val.store.text().load())
    return {"zero_shot": float(np.mean(right)), **retrieval(world.val, l2_normalize(val), texts)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--teacher", default="local-dir:presets/sample-teacher")
    parser.add_argument("--test", default="badges", help="the zero-shot split")
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of a student")
    parser.add_argument("--quadruples", type=int, default=700, help="of each task, to fit on")
    parser.add_argument("--held-out", type=int, default=200, help="of each task, in each held-out part")
    parser.add_argument("--scorer-epochs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no arm after so many")
    return parser.parse_args()


if __name__ == "__main__":
    main()
