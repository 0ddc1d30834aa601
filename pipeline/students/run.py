"""A training run: a student, its losses and its batch loader, built from the parameters of an arm."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.project.project import Project
from pipeline.students.dense_tokens import place_side
from pipeline.students.inputs.loader import Batch, BatchLoader, PixelSource
from pipeline.students.inputs.splits import (
    EmbeddedSplit,
    check_caption_mix,
)
from pipeline.students.inputs.targets import Targets, load_targets, with_patches
from pipeline.students.losses.objective import LossParams, Objective
from pipeline.students.losses.scaling import build_objective, is_length_undefined, set_output_norms
from pipeline.students.model import Student, StudentParams
from pipeline.students.text_tower import TextTower
from pipeline.students.training.distributed import SINGLE_PROCESS, DistributedContext
from pipeline.students.training.loop import ResumeConfig, train
from pipeline.students.training.optimizer import OptimizerStep
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.validation import HistoryRow
from pipeline.whitening.spaces import TargetSpace


@dataclass(frozen=True)
class ArmParams:
    """Parameters of an arm: `distill.training`, `distill.loss` and `distill.<student>`."""

    training: TrainingParams
    loss: LossParams
    student: StudentParams

    @property
    def mixed_files(self) -> tuple[str, ...]:
        """Return the files of additional captions used in training; empty if no loss uses captions."""
        return self.training.mixed_files if self.loss.needs_captions or self.student.text else ()


def read_recipe(project: Project, student: str) -> ArmParams:
    """Return the three sections of an arm; raises UsageError with the key in the parameters."""
    return ArmParams(
        project.section("distill.training", TrainingParams, default={}),
        project.section("distill.loss", LossParams, default={"fd": 1.0}),
        project.section(f"distill.{student}", StudentParams, default={}),
    )


@dataclass(frozen=True)
class TrainingRun:
    """A student, its losses and its batch loader, built from the parameters of an arm."""

    student: Student
    objective: Objective
    feed: BatchLoader
    params: TrainingParams

    @classmethod
    def build(
        cls,
        student: str,
        recipe: ArmParams,
        targets: Targets,
        pixels: PixelSource,
        device: torch.device,
        *,
        ranks: DistributedContext = SINGLE_PROCESS,
        start_text: Callable[[TextTower], None] | None = None,
    ) -> TrainingRun:
        """Build a run from the parameters of an arm; the seed decides initial weights and batches.

        Raises:
            UsageError: unknown student, an indivisible batch, too few shards, or a loss over pairs without captions.
        """
        training, loss = recipe.training, recipe.loss
        _, rows, dim = targets.image.shape
        batch = min(training.batch, rows)
        ranks.check(batch, training.accumulation_steps)
        torch.manual_seed(training.seed)
        model = Student(student, recipe.student, dim, tuple(head.dim for head in targets.heads))
        if model.text is not None and start_text is not None:
            start_text(model.text)
        set_output_norms(model, loss, targets)
        side = place_side(model, training.image_size) if loss.needs_patches else None
        feed = BatchLoader(
            pixels,
            targets,
            batch,
            training.image_size,
            training.seed,
            device,
            flip_probability=training.flip,
            bank_size=loss.bank_size,
            ranks=ranks,
            max_captions=training.max_captions,
            shuffle_buffer=training.shuffle_buffer,
            shard_groups=training.shard_groups,
            patch_side=side,
        )
        feed.check_groups()
        return cls(model, build_objective(loss, targets), feed, training)

    def train(
        self,
        validate: Callable[[Student], HistoryRow],
        resume: ResumeConfig,
        show: Callable[[list[HistoryRow]], None] = lambda _: None,
    ) -> tuple[Student, list[HistoryRow]]:
        """Train the student, resuming an interrupted run; return the student to keep and its history."""
        run = self.student, self.objective, self.feed
        return train(*run, look=validate, params=self.params, resume=resume, show=show)

    def step(self) -> Callable[[Batch], Float[Tensor, ""]]:
        """Return one training step at the peak learning rate, as a function from batch to loss."""
        update = OptimizerStep.build(self.student, self.objective, self.feed, self.params)
        forward, count = self.feed.ranks.wrap_ddp(update.learner), itertools.count(1)

        def take(batch: Batch) -> Float[Tensor, ""]:
            output, _ = update(forward, batch, self.student.params.learning_rate)
            update.average_weights(next(count))
            return output.loss

        return take


def load_run_targets(split: EmbeddedSplit, space: TargetSpace, recipe: ArmParams) -> Targets:
    """Load the targets of an arm: views and, if a loss needs them, captions, tokens, classes or domains.

    Raises:
        UsageError: a loss over labels on a split without labels; shares of captions that do not exist.
        StaleError: further captions that were packed again since they were embedded.
    """
    text, loss = recipe.student.text, recipe.loss
    check_caption_mix(split, recipe.training.caption_mix)
    targets = load_targets(
        split.store,
        space,
        recipe.training.max_views,
        texts=loss.needs_captions,
        labels=loss.needs_labels,
        domains=split.packed.domains if loss.needs_domains else None,
        context=text.context if text else None,
        resident=recipe.training.pixels != "streamed",
        mix=recipe.training.caption_mix,
    )
    if not loss.needs_patches:
        return targets
    return with_patches(targets, split.store, space, undefined=is_length_undefined(loss, space))
