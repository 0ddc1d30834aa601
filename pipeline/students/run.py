"""A training arm and its run: the student, its target space, and checked training inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cache.errors import StaleError
from cache.teachers import members
from pipeline.data.text_slice import TextSlice, read_slice
from pipeline.project.code_versions import code_identity, code_version
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.project import Project
from pipeline.students.backbones import timm_name, weights_sha256
from pipeline.students.dense_tokens import place_side
from pipeline.students.inputs.loader import Batch, BatchLoader, PixelSource
from pipeline.students.inputs.splits import EmbeddedSplit, check_patches, check_readable, open_split
from pipeline.students.inputs.targets import Targets, load_targets, with_patches
from pipeline.students.losses.objective import LossParams, Objective
from pipeline.students.losses.scaling import build_objective, is_length_undefined, set_output_norms
from pipeline.students.model import Student, StudentParams
from pipeline.students.text_tower import TextTower, init_from_slice
from pipeline.students.training.distributed import SINGLE_PROCESS, DistributedContext
from pipeline.students.training.loop import ResumeConfig, train
from pipeline.students.training.optimizer import OptimizerStep
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.validation import HistoryRow
from pipeline.whitening.moments_file import embeddings_digest
from pipeline.whitening.spaces import TargetSpace, load_space


@dataclass(frozen=True)
class ArmParams:
    """Parameters of an arm: `distill.training`, `distill.loss` and `distill.<student>`."""

    training: TrainingParams
    loss: LossParams
    student: StudentParams


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
            UsageError: unknown student, an indivisible batch, or a loss over pairs without captions.
        """
        training, loss = recipe.training, recipe.loss
        _, rows, dim = targets.image.shape
        batch = min(training.batch, rows)
        ranks.check(batch, training.accumulate)
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
            bank_size=loss.bank,
            ranks=ranks,
            max_captions=training.captions,
            shuffle_buffer=training.shuffle_buffer,
            patch_side=side,
        )
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
            learnt, _ = update(forward, batch, self.student.params.learning_rate)
            update.average_weights(next(count))
            return learnt.loss

        return take


def load_run_targets(split: EmbeddedSplit, space: TargetSpace, recipe: ArmParams) -> Targets:
    """Load the targets of an arm: views and, if a loss needs them, captions, tokens, classes or domains.

    Raises:
        UsageError: a loss over labels on a split without labels.
    """
    text, loss = recipe.student.text, recipe.loss
    targets = load_targets(
        split.store,
        space,
        recipe.training.views,
        texts=loss.needs_captions,
        labels=loss.needs_labels,
        domains=split.packed.domains if loss.needs_domains else None,
        context=text.context if text else None,
        resident=recipe.training.pixels != "streamed",
    )
    if not loss.needs_patches:
        return targets
    return with_patches(targets, split.store, space, undefined=is_length_undefined(loss, space))


@dataclass(frozen=True)
class TrainingArm:
    """A student, a target space, and the splits for training and validation."""

    student: str
    recipe: ArmParams
    space: TargetSpace
    splits: dict[str, EmbeddedSplit]
    text_slice: TextSlice | None = None
    """Slice of the teacher's text tower for the initialization of the student's, if any."""

    def facts(self) -> dict[str, Any]:
        """Return the facts that decide its bytes, for the fingerprint."""
        sections = {name: section.model_dump(mode="json") for name, section in vars(self.recipe).items()}
        begun_with = weights_sha256(self.recipe.student.backbone)
        return {
            **({"text_slice": self.text_slice.sha256} if self.text_slice else {}),
            **({"backbone_weights": begun_with} if begun_with else {}),
            "code": {"distill": code_identity("distill"), "pixels": code_version("pixels")},
            "student": self.student,
            "backbone": self.backbone,
            "params": sections,
            "target": self.space.fingerprint,
            "embeddings": {
                name: split.facts(patches=name == "train" and self.recipe.loss.needs_patches)
                for name, split in self.splits.items()
            },
        }

    def card(self) -> dict[str, Any]:
        """Return the model card."""
        training = self.recipe.training
        return {
            "target": self.space.name,
            "target_fingerprint": self.space.fingerprint,
            "teacher": self.space.teacher,
            "backbone": self.backbone,
            "image_size": training.image_size,
            "augmentation": training.augmentation,
            "training": training.model_dump(mode="json"),
            "loss": self.recipe.loss.weights,
        }

    def choose_pixels(self, layout: Layout) -> tuple[TrainingArm, str | None]:
        """Return the arm with `pixels: auto` resolved for this disk, and a sentence about the choice."""
        training = self.recipe.training
        mode, reason = self.splits["train"].choose_pixels(training.pixels, training.image_size, training.views, layout)
        recipe = replace(self.recipe, training=training.model_copy(update={"pixels": mode}))
        said = f"distill.training.pixels: auto is '{mode}' here: {reason}" if reason else None
        return replace(self, recipe=recipe), said

    def training_pixels(self, views: int, layout: Layout, runtime: Runtime) -> PixelSource:
        """Return the training images: decoded once, now if missing, or at each use."""
        split, training = self.splits["train"], self.recipe.training
        if training.pixels == "streamed":
            return split.streamed_pixels(training.image_size, views, runtime)
        return split.pixels(training.image_size, views, layout, runtime)

    @property
    def backbone(self) -> str:
        """Return the timm name of the backbone."""
        return timm_name(self.student, self.recipe.student.backbone)

    def start_text(self, tower: TextTower) -> None:
        """Initialize a text tower from the teacher's slice, if configured; raises UsageError if it does not fit."""
        if self.text_slice is not None:
            init_from_slice(
                tower, self.text_slice, self.space.transform("text").forward, f"distill.{self.student}.text"
            )


def open_arm(student: str, target: str, recipe: ArmParams, layout: Layout, runtime: Runtime) -> TrainingArm:
    """Open the inputs for training and validation of an arm.

    Raises:
        UsageError: unknown student, or a text tower without captions or losses.
        CacheError: embeddings or targets are missing, damaged, stale or of another teacher.
    """
    timm_name(student, recipe.student.backbone)  # report a mistyped name before reading anything
    space = load_space(layout.target(target))
    names = ("train", "val", recipe.training.watch)
    splits = {name: open_split(name, layout, runtime, space.teacher) for name in names if name}
    if space.embeddings_digest != (found := embeddings_digest(splits["train"].store.manifest)):
        raise StaleError(
            f"{layout.target(target)}: fitted on embeddings {space.embeddings_digest}, but "
            f"{layout.embeddings('train')} holds {found}. Run `moments` and `whiten` again."
        )
    if recipe.loss.needs_patches:
        check_patches(splits["train"], student, recipe.student.patches, recipe.training.views)
    text = recipe.student.text
    if text is not None and len(members(space.teacher)) > 1:
        raise UsageError(f"distill.{student}.text: '{target}' is of several teachers: a text tower learns from one")
    if text is not None:
        check_readable(splits, recipe.loss, f"distill.{student}.text")
    first = read_slice(layout.embeddings("train"), space.teacher) if text and text.weights == "slice" else None
    return TrainingArm(student, recipe, space, splits, first)
