"""One trial of a comparison: a student trained at one seed, rate and budget, and what was seen of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.comparing.arms import Arm
from pipeline.comparing.eye import Eye
from pipeline.evaluation.experiment import Run
from pipeline.project.errors import DivergedError, UsageError
from pipeline.students.backbones import weights_sha256
from pipeline.students.feed import Feed
from pipeline.students.history import Row
from pipeline.students.learner import Learner
from pipeline.students.model import Student, StudentParams
from pipeline.students.objective import Objective
from pipeline.students.pixels import Pixels
from pipeline.students.recipe import TrainingParams
from pipeline.students.splits import Split
from pipeline.students.targets import Targets, load_targets
from pipeline.students.training import Resume, start_head, train
from pipeline.students.units import build_objective, measure_lengths

LOOKS_PER_EPOCH = 10


@dataclass(frozen=True)
class Trial:
    """What is trained: an arm, a seed, a peak learning rate, a schedule's length in epochs."""

    arm: str
    seed: int
    rate: float
    epochs: int


@dataclass(frozen=True)
class Bench:
    """Everything the trials of one comparison share."""

    student: str
    params: StudentParams
    training: TrainingParams
    arms: Mapping[str, Arm]
    train: Split
    pixels: Pixels
    eye: Eye
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """Return what all runs share: arms, seeds, rates and budgets only add runs to it."""
        fixed = self.training.model_dump(mode="json", exclude={"epochs", "seed", "evaluations", "watch"})
        params = self.params.model_dump(mode="json", exclude={"learning_rate"})
        shared = {"student": self.student, "params": params, "training": fixed, "train": self.train.facts()}
        begun_with = weights_sha256(self.params.backbone)
        return {**shared, **({"backbone_weights": begun_with} if begun_with else {}), **self.eye.facts()}

    def run(self, trial: Trial, state: Path) -> Run:
        """Train one student from where it stands, and say what was seen; one that diverged scores chance.

        The seed decides the initial weights, the batches and the views, whatever the arm.
        """
        arm, began = self.arms[trial.arm], time.monotonic()
        changes = {"epochs": trial.epochs, "seed": trial.seed, "evaluations": LOOKS_PER_EPOCH * trial.epochs}
        recipe = self.training.model_copy(update=changes)
        context = self.params.text.context if self.params.text else None
        targets = load_targets(
            self.train.store, arm.space, recipe.views, texts=arm.loss.pairs, context=context, labels=arm.loss.labelled
        )
        targets = arm.taught(targets)
        feed = self._feed(targets, recipe, arm.loss.bank)
        student, objective = self._student(trial, arm, targets), build_objective(arm.loss, targets)
        start = opening(student, objective, feed)

        def look(kept: Student) -> Row:
            return self.eye.look(kept, arm.space)

        try:
            kept, history = train(student, objective, feed, look=look, params=recipe, resume=Resume(state))
            final = self.eye.look(kept, arm.space, full=True)
        except DivergedError:
            final = self.eye.blind()
            history = [{"epoch": (i + 1) / LOOKS_PER_EPOCH, **final} for i in range(recipe.evaluations)]
        curves = {name: tuple(row[name] for row in history) for name in final if name in history[0]}
        steps, seconds = tuple(row["epoch"] for row in history), time.monotonic() - began
        return Run(trial.arm, trial.seed, trial.rate, trial.epochs, steps, curves, final, start, seconds)

    def _feed(self, targets: Targets, recipe: TrainingParams, bank: int) -> Feed:
        batch = min(recipe.batch, len(targets.image[0]))
        return Feed(self.pixels, targets, batch, recipe.image_size, recipe.seed, self.device, recipe.flip, bank)

    def _student(self, trial: Trial, arm: Arm, targets: Targets) -> Student:
        if self.params.text is not None and self.params.text.weights is not None:
            raise UsageError(
                f"distill.{self.student}.text.weights: compare trains text towers from scratch; leave it out"
            )
        torch.manual_seed(trial.seed)
        params = self.params.model_copy(update={"learning_rate": trial.rate})
        student = Student(self.student, params, targets.image.shape[-1])
        measure_lengths(student, arm.loss, targets)
        return student


def opening(student: Student, objective: Objective, feed: Feed) -> dict[str, float]:
    """Return each loss, and its gradient's norm at the trunk, before the first step; the student stays as it is."""
    learner = Learner(copy.deepcopy(student), copy.deepcopy(objective), "fp32").to(feed.device).train()
    start_head(learner.student, feed)
    found: dict[str, float] = learner(feed.at(0)).shares(objective.params.weights)
    return found
