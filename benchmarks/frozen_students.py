"""Compare target spaces for heads on a frozen ImageNet trunk: hundreds of runs to convergence.

    python benchmarks/frozen_students.py --root DIR --weights FILE --out DIR [--part 0/2] [--report]

The trunk's pooled features are computed once; what learns is an MLP of one narrow hidden layer, by the product's own
head, losses, optimizer, schedule and target spaces. A run takes seconds, so each arm gets its own best rate (chosen by
R@10 on val, on a seed that is not counted) and five paired seeds. What a trunk would learn is not asked here: that is
`compare` with benchmarks/compare/pretrained.yaml. Finished runs are files: stop it when you like, the same command goes
on; `--part` shares the arms among processes, `--report` prints tables and draws curves of what is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.frozen_arms import ARMS, EPOCHS, RATES, SEEDS, HeadArm
from benchmarks.frozen_report import CHANCE, print_report
from benchmarks.frozen_world import CHOOSE_BY, FrozenWorld, load_world
from benchmarks.small_runs import World
from cache.fingerprint import fingerprint, sha256
from cache.normalization import l2_normalize
from pipeline.comparison.arms import permuted_whitening
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.run_store import RunSchedule, RunStore
from pipeline.comparison.runner import Trial
from pipeline.students.inputs.caption_mix import CaptionSet
from pipeline.students.inputs.targets import load_targets
from pipeline.students.losses.objective import BatchTargets, Objective, StudentOutputs
from pipeline.students.losses.rowwise import TargetStats
from pipeline.students.losses.scaling import build_objective
from pipeline.students.towers import HeadParams, build_head, init_head, last_layer
from pipeline.students.training.optimizer import HEAD_POWERS, build_optimizer
from pipeline.students.training.optimizer import learning_rate_at as scheduled_rate
from pipeline.whitening.spaces import TargetSpace, fit_space

HIDDEN, BATCH, WARMUP = 128, 100, 0.1
LOOKS = 20
"""Number of points of a learning curve."""
SHUFFLE_SEED = 20


@dataclass(frozen=True)
class HeadTask:
    """Training task of one arm's head: features, targets of a space, and the loss in their units."""

    frozen: FrozenWorld
    arm: HeadArm
    space: TargetSpace
    targets: Float[torch.Tensor, "n k"]
    objective: Objective
    stats: TargetStats
    captions: CaptionSet | None = None
    """The images' captions in the space, for losses over pairs."""

    def start_head(self, seed: int) -> nn.Sequential:
        """Return a head whose outputs have the targets' mean and variance."""
        torch.manual_seed(seed)
        features = self.frozen.features["train"]
        head = build_head(features.shape[1], self.targets.shape[1], HeadParams(kind="mlp", hidden=HIDDEN))
        init_head(head, features, torch.from_numpy(self.stats.mean), self.stats.variance)
        return head

    def optimizer(self, head: nn.Sequential, rate: float) -> torch.optim.Optimizer:
        """Return the arm's optimizer, the last layer at its own rate where steps are relative."""
        factor = self.stats.variance ** (HEAD_POWERS[self.arm.optimizer] / 2)
        scaled = [(last_layer(head), factor)] if self.arm.head_steps == "relative" else []
        return build_optimizer(self.arm.optimizer, [], (head,), rate, 0.0, scaled=scaled)

    def batch(self, chosen: Int[np.ndarray, " b"], draws: Float[np.ndarray, " b"]) -> BatchTargets:
        """Return targets of images; for losses over pairs, with one of their captions each, by draws in [0, 1)."""
        rows = self.targets[torch.from_numpy(chosen)]
        if self.captions is None:
            return BatchTargets(rows)
        first, last = self.captions.captions_of(chosen)
        texts = self.captions.text[first + (draws * (last - first)).astype(np.int64)]
        return BatchTargets(rows, torch.from_numpy(texts))

    @torch.no_grad()
    def embed(self, head: nn.Sequential, split: str) -> Float[np.ndarray, "n d"]:
        """Return a head's embeddings of a split in CLIP space."""
        rows = head(self.frozen.features[split]).numpy()
        return self.space.to_embedding(
            self.stats.rms_norm * l2_normalize(rows) if self.arm.loss.scale_invariant else rows
        )


def open_task(frozen: FrozenWorld, name: str) -> HeadTask:
    """Fit an arm's space and take its targets; the sanity arm gets those of other images."""
    arm = ARMS[name]
    space = head_space(name, arm, frozen.world)
    pairs = arm.loss.needs_captions
    targets = load_targets(frozen.world.train.store, space, 1, texts=pairs)
    rows = torch.from_numpy(targets.image[0])
    if arm.shuffled:
        rows = rows[torch.from_numpy(np.random.default_rng(SHUFFLE_SEED).permutation(len(rows)))]
    objective = build_objective(arm.loss, targets)
    return HeadTask(frozen, arm, space, rows, objective, targets.image_stats, targets.own_captions if pairs else None)


def head_space(name: str, arm: HeadArm, world: World) -> TargetSpace:
    """Fit the target space of an arm; the placebo's divisors are permuted."""
    space = fit_space(name, arm.target, world.moments)
    return replace(space, image=permuted_whitening(arm.target, world.moments.image)) if arm.placebo else space


def train_head(frozen: FrozenWorld, trial: Trial) -> RunResult:
    """Train one head from the trunk's features to an arm's targets; a diverged one has the score of chance."""
    begin, task = time.process_time(), open_task(frozen, trial.arm)
    head = task.start_head(trial.seed)
    epoch_steps = len(task.targets) // BATCH
    steps = trial.epochs * epoch_steps
    looks = sorted({round(steps * (i + 1) / LOOKS) for i in range(LOOKS)})
    curve = [
        frozen.accuracy(task.embed(head, "test"), "clip")
        for step in learning_steps(task, head, trial, steps)
        if step + 1 in looks
    ]
    test, val = (task.embed(head, split) for split in ("test", "val"))
    if len(curve) == len(looks) and np.isfinite(test).all() and np.isfinite(val).all():
        final = frozen.final_scores(test, val)
    else:
        curve, final = [CHANCE] * len(looks), {"clip": CHANCE, "whitened": CHANCE, CHOOSE_BY: 0.0, "r2": -1.0}
    epochs = tuple(step / epoch_steps for step in looks)
    curves, seconds = {"clip": tuple(curve)}, time.process_time() - begin
    return RunResult(trial.arm, trial.seed, trial.rate, trial.epochs, epochs, curves, final, {}, seconds)


def learning_steps(task: HeadTask, head: nn.Sequential, trial: Trial, steps: int) -> Iterator[int]:
    """Train a head step by step, and yield the number of each; ends early where the loss is no number."""
    optimizer, features = task.optimizer(head, trial.rate), task.frozen.features["train"]
    epoch_steps = len(task.targets) // BATCH
    for step in range(steps):
        epoch, number = divmod(step, epoch_steps)
        rng = np.random.default_rng([trial.seed, epoch])
        order, draws = rng.permutation(len(task.targets)), rng.random(len(task.targets))
        chosen = order[number * BATCH : (number + 1) * BATCH]
        for group in optimizer.param_groups:
            peak = trial.rate * group.get("lr_scale", 1.0)
            group["lr"] = scheduled_rate("cosine", peak, step, steps, WARMUP)
        loss = task.objective.weighted_sum(
            task.objective(StudentOutputs(head(features[torch.from_numpy(chosen)])), task.batch(chosen, draws[chosen]))
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say its type
        optimizer.step()
        if not torch.isfinite(loss):
            return
        yield step


def open_runs(out: Path, size: int, weights: Path) -> RunStore:
    """Return the folder of runs; each arm's carries the hash of what decides it."""
    shared = {"size": size, "weights": sha256(weights), "hidden": HIDDEN, "batch": BATCH}
    return RunStore(out, {name: fingerprint({**shared, **arm.facts()}) for name, arm in ARMS.items()})


def main(argv: Sequence[str] | None = None) -> None:
    """Make the missing runs, arm by arm, or report on the existing ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a project with train, val and cifar10 embedded")
    parser.add_argument("--weights", type=Path, required=True, help="of efficientnet_lite0, a safetensors file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--part", default="0/1", help="this process's share of the arms: 0/2 and 1/2 are all")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs = open_runs(arguments.out, arguments.size, arguments.weights)
    if arguments.report:
        print_report(runs.read(), arguments.out)
        return
    frozen = load_world(arguments.root, arguments.weights, arguments.size)
    part, parts = (int(number) for number in arguments.part.split("/"))
    for name in list(ARMS)[part::parts]:
        wish = RunSchedule([name], EPOCHS, RATES[ARMS[name].optimizer], SEEDS, CHOOSE_BY)
        while missing := wish.missing([run for run in runs.read() if run.arm == name]):
            for trial in missing:
                run = train_head(frozen, trial)
                runs.save(trial, run)
                scores = f"{run.final['clip']:.3f} {run.final[CHOOSE_BY]:.3f} {run.seconds:.1f} s"
                print(f"{name} {trial.epochs} epochs rate {trial.rate:g} seed {trial.seed}: {scores}", flush=True)


if __name__ == "__main__":
    main()
