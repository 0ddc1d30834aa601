"""One trial of a comparison: a student trained at one seed, rate and budget, and what was seen of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.comparison.arms import ComparisonArm
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.evaluator import ArmEvaluator
from pipeline.project.errors import DivergedError, UsageError
from pipeline.students.backbones import weights_sha256
from pipeline.students.inputs.loader import BatchLoader
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.splits import EmbeddedSplit
from pipeline.students.inputs.targets import Targets, load_targets
from pipeline.students.losses.objective import Objective
from pipeline.students.losses.scaling import build_objective, set_output_norms
from pipeline.students.model import Student, StudentParams
from pipeline.students.training.loop import ResumeConfig, init_heads, train
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.step import DistillationStep
from pipeline.students.training.validation import HistoryRow

EVALUATIONS_PER_EPOCH = 10


@dataclass(frozen=True)
class Trial:
    """What is trained: an arm, a seed, a peak learning rate, a schedule's length in epochs."""

    arm: str
    seed: int
    rate: float
    epochs: int


@dataclass(frozen=True)
class TrialRunner:
    """Everything the trials of one comparison share."""

    student: str
    params: StudentParams
    training: TrainingParams
    arms: Mapping[str, ComparisonArm]
    train: EmbeddedSplit
    pixels: PixelStore
    eye: ArmEvaluator
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """Return what all runs share: arms, seeds, rates and budgets only add runs to it."""
        fixed = self.training.model_dump(mode="json", exclude={"epochs", "seed", "evaluations", "watch"})
        params = self.params.model_dump(mode="json", exclude={"learning_rate"})
        shared = {"student": self.student, "params": params, "training": fixed, "train": self.train.facts()}
        begun_with = weights_sha256(self.params.backbone)
        return {**shared, **({"backbone_weights": begun_with} if begun_with else {}), **self.eye.facts()}

    def run(self, trial: Trial, state: Path) -> RunResult:
        """Train one student from where it stands, and say what was seen; one that diverged scores chance.

        The seed decides the initial weights, the batches and the views, whatever the arm.
        """
        arm, began = self.arms[trial.arm], time.monotonic()
        changes = {"epochs": trial.epochs, "seed": trial.seed, "evaluations": EVALUATIONS_PER_EPOCH * trial.epochs}
        recipe = self.training.model_copy(update=changes)
        context = self.params.text.context if self.params.text else None
        targets = load_targets(
            self.train.store,
            arm.space,
            recipe.views,
            texts=arm.loss.needs_captions,
            context=context,
            labels=arm.loss.needs_labels,
        )
        targets = arm.apply_control(targets)
        feed = self._feed(targets, recipe, arm.loss.bank)
        student, objective = self._student(trial, arm, targets), build_objective(arm.loss, targets)
        start = initial_losses(student, objective, feed)

        def look(kept: Student) -> HistoryRow:
            return self.eye.evaluate(kept, arm.space)

        try:
            kept, history = train(student, objective, feed, look=look, params=recipe, resume=ResumeConfig(state))
            final = self.eye.evaluate(kept, arm.space, full=True)
        except DivergedError:
            final = self.eye.chance_scores()
            history = [{"epoch": (i + 1) / EVALUATIONS_PER_EPOCH, **final} for i in range(recipe.evaluations)]
        curves = {name: tuple(row[name] for row in history) for name in final if name in history[0]}
        steps, seconds = tuple(row["epoch"] for row in history), time.monotonic() - began
        return RunResult(trial.arm, trial.seed, trial.rate, trial.epochs, steps, curves, final, start, seconds)

    def _feed(self, targets: Targets, recipe: TrainingParams, bank: int) -> BatchLoader:
        batch = min(recipe.batch, len(targets.image[0]))
        return BatchLoader(self.pixels, targets, batch, recipe.image_size, recipe.seed, self.device, recipe.flip, bank)

    def _student(self, trial: Trial, arm: ComparisonArm, targets: Targets) -> Student:
        if self.params.text is not None and self.params.text.weights is not None:
            raise UsageError(
                f"distill.{self.student}.text.weights: compare trains text towers from scratch; leave it out"
            )
        torch.manual_seed(trial.seed)
        params = self.params.model_copy(update={"learning_rate": trial.rate})
        student = Student(self.student, params, targets.image.shape[-1])
        set_output_norms(student, arm.loss, targets)
        return student


def initial_losses(student: Student, objective: Objective, feed: BatchLoader) -> dict[str, float]:
    """Return each loss, and its gradient's norm at the trunk, before the first step; the student stays as it is."""
    learner = DistillationStep(copy.deepcopy(student), copy.deepcopy(objective), "fp32").to(feed.device).train()
    init_heads(learner.student, feed)
    found: dict[str, float] = learner(feed.batch_at(0)).gradient_shares(objective.params.weights)
    return found
