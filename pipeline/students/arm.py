"""A training arm: a student, a target space, and the checked splits it is trained and validated on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cache.errors import StaleError
from cache.teachers import members
from pipeline.data.text_slice import TextSlice, read_slice
from pipeline.project.code_versions import code_identity, code_version
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.backbones import initial_weights_facts, timm_name
from pipeline.students.inputs.loader import PixelSource
from pipeline.students.inputs.splits import (
    EmbeddedSplit,
    check_caption_mix,
    check_patches,
    check_readable,
    open_split,
)
from pipeline.students.run import ArmParams
from pipeline.students.text_tower import TextTower, init_from_slice
from pipeline.whitening.moments_file import embeddings_digest
from pipeline.whitening.spaces import TargetSpace, load_space


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
        return {
            **({"text_slice": self.text_slice.sha256} if self.text_slice else {}),
            **initial_weights_facts(self.recipe.student.backbone),
            "code": {"distill": code_identity("distill"), "pixels": code_version("pixels")},
            "student": self.student,
            "backbone": self.backbone,
            "params": sections,
            "target": self.space.fingerprint,
            "embeddings": {
                name: split.facts(patches=self.recipe.loss.needs_patches, captions=self.recipe.mixed_files)
                if name == "train"
                else split.facts()
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
            **self._caption_files(),
        }

    def _caption_files(self) -> dict[str, Any]:
        """Return the share, the hash and the counts of each further file of captions that it is trained on."""
        split, training = self.splits["train"].packed, self.recipe.training
        files = {
            name: {"share": training.caption_mix[name], "sha256": file.digest, **file.counts}
            for name in self.recipe.mixed_files
            for file in (split.caption_files[name],)
        }
        return {"caption_files": files} if files else {}

    def choose_pixels(self, layout: Layout) -> tuple[TrainingArm, str | None]:
        """Return the arm with `pixels: auto` resolved for this disk, and a sentence about the choice."""
        training = self.recipe.training
        mode, reason = self.splits["train"].choose_pixels(
            training.pixels, training.image_size, training.max_views, layout
        )
        recipe = replace(self.recipe, training=training.model_copy(update={"pixels": mode}))
        hint = f"distill.training.pixels: auto is '{mode}' here: {reason}" if reason else None
        return replace(self, recipe=recipe), hint

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
    names = ("train", "val", recipe.training.zero_shot_set)
    splits = {name: open_split(name, layout, runtime, space.teacher) for name in names if name}
    if space.embeddings_digest != (digest := embeddings_digest(splits["train"].store.manifest)):
        raise StaleError(
            f"{layout.target(target)}: fitted on embeddings {space.embeddings_digest}, but "
            f"{layout.embeddings('train')} holds {digest}. Run `moments` and `whiten` again."
        )
    check_caption_mix(splits["train"], recipe.training.caption_mix)
    if recipe.loss.needs_patches:
        check_patches(splits["train"], student, recipe.student.patches, recipe.training.max_views)
    text = recipe.student.text
    if text is not None and len(members(space.teacher)) > 1:
        raise UsageError(f"distill.{student}.text: '{target}' is of several teachers: a text tower learns from one")
    if text is not None:
        check_readable(splits, recipe.loss, f"distill.{student}.text")
    first = read_slice(layout.embeddings("train"), space.teacher) if text and text.weights == "slice" else None
    return TrainingArm(student, recipe, space, splits, first)
