"""An arm: a student, a target space, and everything they learn from, opened and found to belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cache.errors import StaleError
from pipeline.data.text_slice import TextSlice, read_slice
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.runtime import Runtime
from pipeline.students.backbones import timm_name, weights_sha256
from pipeline.students.inputs.splits import EmbeddedSplit, open_split
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import Student, StudentParams
from pipeline.students.text_tower import check_tokenizer, init_from_slice
from pipeline.students.training.params import TrainingParams
from pipeline.whitening.moments_file import embeddings_digest
from pipeline.whitening.spaces import TargetSpace, load_space

TEXT = "text"
SAMPLES = 16
"""Images whose captions are cut into tokens again, to see that they are the teacher's."""


@dataclass(frozen=True)
class ArmParams:
    """How a student is made: `distill.training`, `distill.loss` and `distill.<student>`."""

    training: TrainingParams
    loss: LossParams
    student: StudentParams


@dataclass(frozen=True)
class TrainingArm:
    """A student, a target space, and everything they learn from."""

    student: str
    recipe: ArmParams
    space: TargetSpace
    splits: dict[str, EmbeddedSplit]
    text_slice: TextSlice | None = None
    """What the student's text tower begins with, if it is the teacher's."""

    def facts(self) -> dict[str, Any]:
        """Return what decides its bytes."""
        sections = {
            name: getattr(self.recipe, name).model_dump(mode="json") for name in ("training", "loss", "student")
        }
        begun_with = weights_sha256(self.recipe.student.backbone)
        return {
            **({"text_slice": self.text_slice.sha256} if self.text_slice else {}),
            **({"backbone_weights": begun_with} if begun_with else {}),
            "student": self.student,
            "backbone": self.backbone,
            "params": sections,
            "target": self.space.fingerprint,
            "embeddings": {name: split.facts() for name, split in self.splits.items()},
        }

    def card(self) -> dict[str, Any]:
        """Return what a person should know before using the student."""
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

    @property
    def backbone(self) -> str:
        """Return the timm name of the backbone."""
        return timm_name(self.student, self.recipe.student.backbone)


def open_arm(student: str, target: str, recipe: ArmParams, layout: Layout, runtime: Runtime) -> TrainingArm:
    """Open what an arm learns from and is looked at with.

    Raises:
        UsageError: unknown student, or a text tower that has nothing to read or to learn.
        CacheError: embeddings or targets are missing, damaged, stale or of another teacher.
    """
    timm_name(student, recipe.student.backbone)  # a mistyped name is said before anything is read
    space = load_space(layout.target(target))
    names = ("train", "val", recipe.training.watch)
    splits = {name: open_split(name, layout, runtime, space.teacher) for name in names if name}
    if space.embeddings_digest != (found := embeddings_digest(splits["train"].store.manifest)):
        raise StaleError(
            f"{layout.target(target)}: fitted on embeddings {space.embeddings_digest}, but "
            f"{layout.embeddings('train')} holds {found}. Run `moments` and `whiten` again."
        )
    text = recipe.student.text
    if text is not None:
        check_text_training(splits, recipe.loss, f"distill.{student}.text")
    sliced = text is not None and text.weights == "slice"
    first = read_slice(layout.embeddings("train"), space.teacher) if sliced else None
    return TrainingArm(student, recipe, space, splits, first)


def build_student(arm: TrainingArm) -> Student:
    """Build the arm's student, initialised from torch's global generator, its text tower as it was asked to begin.

    Raises:
        UsageError: the slice of the teacher does not fit.
    """
    student = Student(arm.student, arm.recipe.student, arm.space.image.forward.shape[1])
    if student.text is not None and arm.text_slice is not None:
        init_from_slice(
            student.text, arm.text_slice, arm.space.transform("text").forward, f"distill.{arm.student}.text"
        )
    return student


def check_text_training(splits: Mapping[str, EmbeddedSplit], loss: LossParams, key: str) -> None:
    """Refuse a text tower that has nothing to read, nothing to learn, or would read other tokens than the teacher.

    Raises:
        UsageError: one of these.
    """
    for name in ("train", "val"):
        if TEXT not in splits[name].store.manifest.parts:
            raise UsageError(f"{key}: the {name} split has no captions to read. Leave `text` out.")
    if not loss.trains_text:
        raise UsageError(f"{key}: no loss teaches it: {', '.join(loss.weights)} look at images only. Add fd.")
    val = splits["val"]
    captions = [caption for sample in islice(val.packed.read(0, "size"), SAMPLES) for caption in sample.captions]
    check_tokenizer(val.store.manifest.teacher, captions, val.store.shards(TEXT)[0].tokens[: len(captions)])
