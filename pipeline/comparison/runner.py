"""One trial of a comparison: train a student at one seed, rate and budget, and measure it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cache.fingerprint import fingerprint
from pipeline.comparison.arms import ComparisonArm
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.evaluator import ArmEvaluator
from pipeline.project.code_versions import code_identity, code_version
from pipeline.project.errors import DivergedError, UsageError
from pipeline.students.backbones import initial_weights_facts
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.splits import EmbeddedSplit
from pipeline.students.model import Student, StudentParams
from pipeline.students.run import ArmParams, TrainingRun, load_run_targets
from pipeline.students.training.loop import ResumeConfig
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.step import DistillationStep, init_heads
from pipeline.students.training.validation import HistoryRow

EVALUATIONS_PER_EPOCH = 10


@dataclass(frozen=True)
class Trial:
    """An arm, a seed, a peak learning rate, and a schedule length in epochs."""

    arm: str
    seed: int
    rate: float
    epochs: int
    held_out: str | None = None
    """The held-out domain, in a comparison over domains."""


@dataclass(frozen=True)
class TeacherInputs:
    """The splits of a comparison as one teacher, or an ensemble, embeds them."""

    train: EmbeddedSplit
    pixels: PixelStore
    evaluator: ArmEvaluator

    def facts(self, captions: Sequence[str]) -> dict[str, Any]:
        """Return the facts that decide the results of a run on them."""
        return {"train": self.train.facts(captions=captions), **self.evaluator.facts()}


@dataclass(frozen=True)
class TrialRunner:
    """Shared inputs of the trials of one comparison."""

    student: str
    params: StudentParams
    training: TrainingParams
    arms: Mapping[str, ComparisonArm]
    first: TeacherInputs
    """Of the first teacher."""
    device: torch.device
    others: Mapping[str, TeacherInputs] = field(default_factory=dict)
    """By arm, for arms of other teachers and of ensembles."""

    def inputs_of(self, arm: str) -> TeacherInputs:
        """Return the inputs of an arm."""
        return self.others.get(arm, self.first)

    def facts(self) -> dict[str, Any]:
        """Return the facts shared by all runs; more arms, seeds, rates and budgets only add runs."""
        fixed = self.training.model_dump(mode="json", exclude={"epochs", "seed", "num_validations", "zero_shot_set"})
        params = self.params.model_dump(mode="json", exclude={"learning_rate"})
        code = {"compare": code_identity("compare"), "pixels": code_version("pixels")}
        inputs = {"student": self.student, "params": params, "training": fixed}
        weights = initial_weights_facts(self.params.backbone)
        return {**inputs, "code": code, **weights, **self.first.facts(self._captions)}

    @property
    def _captions(self) -> list[str]:
        recipes = [ArmParams(self.training, arm.loss, self.params) for arm in self.arms.values()]
        return sorted({name for recipe in recipes for name in recipe.mixed_files})

    @property
    def arm_fingerprints(self) -> dict[str, str]:
        """Return a fingerprint of each arm; of another teacher's, also of its inputs, which no other arm shares."""
        facts = {name: inputs.facts(self._captions) for name, inputs in self.others.items()}
        own = {name: fingerprint({**self.arms[name].facts(), "inputs": found}) for name, found in facts.items()}
        return {name: own.get(name, arm.fingerprint) for name, arm in self.arms.items()}

    def run(self, trial: Trial, state: Path) -> RunResult:
        """Train one student, resuming an interrupted run, and return its scores; chance for a diverged one.

        The seed decides initial weights, batches and views, independent of the arm.
        """
        arm, evaluator, began = self.arms[trial.arm], self.inputs_of(trial.arm).evaluator, time.monotonic()
        run = self.build(trial)
        start = initial_losses(run)

        def look(student: Student) -> HistoryRow:
            return evaluator.evaluate(student, arm.space)

        try:
            trained, history = run.train(look, ResumeConfig(state))
            final = evaluator.evaluate(trained, arm.space, full=True)
        except DivergedError:
            final = evaluator.chance_scores()
            history = [{"epoch": (i + 1) / EVALUATIONS_PER_EPOCH, **final} for i in range(run.params.num_validations)]
        curves = {name: tuple(row[name] for row in history) for name in final if name in history[0]}
        steps, seconds = tuple(row["epoch"] for row in history), time.monotonic() - began
        return RunResult(trial.arm, trial.seed, trial.rate, trial.epochs, steps, curves, final, start, seconds)

    def build(self, trial: Trial) -> TrainingRun:
        """Build the training run of a trial, as `distill` builds an arm's; raises UsageError."""
        if self.params.text is not None and self.params.text.weights is not None:
            raise UsageError(
                f"distill.{self.student}.text.weights: compare trains text towers from scratch; leave it out"
            )
        arm = self.arms[trial.arm]
        changes = {"epochs": trial.epochs, "seed": trial.seed, "num_validations": EVALUATIONS_PER_EPOCH * trial.epochs}
        recipe = ArmParams(
            self.training.model_copy(update=changes),
            arm.loss,
            self.params.model_copy(update={"learning_rate": trial.rate}),
        )
        inputs = self.inputs_of(trial.arm)
        targets = arm.apply_control(load_run_targets(inputs.train, arm.space, recipe))
        return TrainingRun.build(self.student, recipe, targets, inputs.pixels, self.device)


def initial_losses(run: TrainingRun) -> dict[str, float]:
    """Return each loss, and its gradient norm at the trunk's output, before the first step; trains nothing."""
    step = DistillationStep(copy.deepcopy(run.student), copy.deepcopy(run.objective), "fp32")
    step.to(run.feed.device).train()
    init_heads(step, run.feed)
    losses: dict[str, float] = step(run.feed.batch_at(0)).gradient_shares(run.objective.weights)
    return losses
