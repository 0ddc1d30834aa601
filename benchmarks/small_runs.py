"""What the benchmarks that train small students on a project's photos share: one run, its score, and a table."""

from __future__ import annotations

import argparse
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cache.atomic import write_json
from cache.normalization import l2_normalize
from pipeline.comparison.statistics import paired_t_interval
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, rank_candidates
from pipeline.project.device import choose_device
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime, load_params
from pipeline.students.inference import embed_tokens
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.splits import EmbeddedSplit, open_split
from pipeline.students.inputs.targets import Targets, caption_tokens
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.run import ArmParams, TrainingRun
from pipeline.students.text_tower import truncate_tokens
from pipeline.students.training.loop import ResumeConfig
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.validation import build_validator
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetSpace

Scores = dict[str, float]


def small_options(doc: str | None, arms: Sequence[str], epochs: int) -> argparse.Namespace:
    """Read the command line that these benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--test", default="cifar10", help="the zero-shot split")
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=list(arms))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


@dataclass(frozen=True)
class World:
    """The splits of a project, opened once."""

    layout: Layout
    runtime: Runtime
    train: EmbeddedSplit
    val: EmbeddedSplit
    test: EmbeddedSplit

    @cached_property
    def moments(self) -> CoMoments:
        """Return the moments of the training split's center views and captions."""
        store = self.train.store
        return estimate_comoments("l2", [store.image().load()], store.text().load(), store.offsets)

    def pixels(self, size: int, views: int = 1) -> dict[str, PixelStore]:
        """Return all splits decoded, for the first so many views of the training images."""
        parts = (("train", self.train, views), ("val", self.val, 1), ("test", self.test, 1))
        return {name: split.pixels(size, count, self.layout, self.runtime) for name, split, count in parts}


def open_world(root: Path, test: str, device: str = "cpu") -> World:
    """Open train, val and a zero-shot split of a project."""
    layout, runtime = Layout(root), Runtime(device=device, workers=0)
    return World(layout, runtime, *(open_split(name, layout, runtime) for name in ("train", "val", test)))


@dataclass(frozen=True)
class Small:
    """One student and what it is trained with."""

    student: str
    space: TargetSpace
    targets: Targets
    training: TrainingParams
    params: StudentParams = field(default_factory=lambda: StudentParams(learning_rate=2e-3))
    loss: LossParams = field(default_factory=lambda: LossParams(fd=1.0))

    def run(self, world: World, pixels: Mapping[str, PixelStore], state: Path) -> Scores:
        """Train it from where it stands, and score it by CLIP's rule: zero-shot, and retrieval on val."""
        began, size, text = time.monotonic(), self.training.image_size, self.params.text
        recipe = ArmParams(self.training, self.loss, self.params)
        device = choose_device(world.runtime.device)
        run = TrainingRun.build(self.student, recipe, self.targets, pixels["train"], device)
        validate = build_validator(
            self.space,
            size,
            256,
            (world.val.store, pixels["val"]),
            (world.test.store, pixels["test"]),
            context=text.context if text else None,
        )
        kept, history = run.train(validate, ResumeConfig(state))
        image = l2_normalize(self.space.to_embedding(validate.val.embed(kept, size, 256)))
        names = ("zero_shot", "val_nmse", "zero_shot_own", "val_text_nmse")
        found = {name: history[-1][name] for name in names if name in history[-1]}
        found |= retrieval(world.val, image, l2_normalize(world.val.store.text().load()))
        if text:
            tokens = truncate_tokens(caption_tokens(world.val.store), text.context)
            own = l2_normalize(self.space.to_embedding(embed_tokens(kept, tokens), "text"))
            found |= {f"{name} own": score for name, score in retrieval(world.val, image, own).items()}
        return {**found, "minutes": (time.monotonic() - began) / 60}


def retrieval(split: EmbeddedSplit, image: np.ndarray, text: np.ndarray) -> Scores:
    """Return recall at 1 and 10 in both directions, of unit rows."""
    pairs = ground_truth_pairs(split.store.offsets, np.concatenate([s.caption_sha for s in split.store.shards("text")]))
    both = {"image_to_text": (image, text, pairs), "text_to_image": (text, image, pairs[:, ::-1])}
    return {f"{way} R@{k}": rank_candidates(*sides).recall(k) for way, sides in both.items() for k in (1, 10)}


def finish(paths: Mapping[tuple[str, int], Path], minutes: float, run: Callable[[str, int, Path], Scores]) -> None:
    """Make the runs that have no file yet and that no other process is at, beginning none after so many minutes.

    One that is cut off goes on next time; the same command given twice shares the work.
    """
    until = time.monotonic() + 60 * minutes
    for (arm, seed), path in paths.items():
        if path.exists() or time.monotonic() >= until:
            continue
        with _held(path.with_suffix(".lock")) as mine:
            if mine and not path.exists():
                state = path.with_suffix(".state")
                found = run(arm, seed, state)
                write_json(path, found)
                state.unlink(missing_ok=True)
                print(f"{arm} seed {seed}: " + ", ".join(f"{name} {x:.4f}" for name, x in found.items()), flush=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Say whether a lock could be had, and keep it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def finished(paths: Mapping[tuple[str, int], Path]) -> dict[str, dict[int, Scores]]:
    """Return the scores of the runs that have a file, by arm and seed."""
    found: dict[str, dict[int, Scores]] = {}
    for (arm, seed), path in paths.items():
        if path.exists():
            found.setdefault(arm, {})[seed] = load_params(path)
    return found


def print_table(found: Mapping[str, Mapping[int, Scores]], against: str, names: Sequence[str] = ()) -> None:
    """Print mean ± half of a 95 % interval over seeds (Student's t), and the paired difference to one arm."""
    for arm, runs in found.items():
        for name in names or tuple(next(iter(runs.values()))):
            values = {seed: scores[name] for seed, scores in runs.items() if name in scores}
            other = {seed: scores[name] for seed, scores in found.get(against, {}).items() if name in scores}
            paired = [value - other[seed] for seed, value in values.items() if seed in other]
            if values:
                print(
                    f"{arm:18s} {name:22s} {mean_and_half(list(values.values()))}   "
                    f"to {against} {mean_and_half(paired, '+')}   n = {len(values)}"
                )


def mean_and_half(values: Sequence[float] | np.ndarray, sign: str = "", digits: int = 4) -> str:
    """Return a mean and, of several values, half of its 95 % interval (Student's t)."""
    if not len(values):
        return "–"
    mean = f"{np.mean(values):{sign}.{digits}f}".replace("-", "−")
    if len(values) == 1:
        return mean
    interval = paired_t_interval(np.array(values))
    return f"{mean} ± {interval.high - interval.mean:.{digits}f}"
