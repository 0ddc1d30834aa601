"""Validation during training: on held-out images and on one zero-shot set, from the cache alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Int64

from cache.reader import EmbeddingStore
from cache.shard import PromptShard
from pipeline.data.prompts import render_prompts
from pipeline.evaluation.scoring_rules import (
    ReferenceSpaces,
    clip_spaces,
    image_vectors,
    predict_classes,
    prompt_vectors,
)
from pipeline.students.inference import CenterViews, center_views, embed_tokens
from pipeline.students.inputs.loader import PixelSource
from pipeline.students.inputs.targets import caption_tokens
from pipeline.students.model import Student
from pipeline.students.text_tower import tokenize, truncate_tokens
from pipeline.whitening.spaces import TargetSpace


@dataclass(frozen=True)
class ZeroShotSet:
    """A zero-shot set: its images, their classes, and one CLIP-space vector per class."""

    images: CenterViews
    labels: Int64[np.ndarray, " n"]
    classes: Float[np.ndarray, "c d"]

    def accuracy(self, image: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"]) -> float:
        """Return the accuracy of unit image vectors against unit class vectors."""
        return float(np.mean(predict_classes(image, classes) == self.labels))


@dataclass(frozen=True)
class TextValidationSet:
    """Tokenized captions and prompts used to validate the student's text tower during training."""

    val: Int[np.ndarray, "n l"]
    """The first caption of each validation image that has one."""
    val_target: Float[np.ndarray, "n k"]
    prompts: PromptShard | None = None
    """Those of the zero-shot set, if its images have labels."""
    prompt_tokens: Int[np.ndarray, "p l"] | None = None


@dataclass(frozen=True)
class Validator:
    """Computes the validation metrics of a student between steps."""

    space: TargetSpace
    size: int
    batch: int
    val: CenterViews
    val_target: Float[np.ndarray, "n k"]
    zero_shot_set: ZeroShotSet | None
    text_set: TextValidationSet | None = None
    spaces: ReferenceSpaces = field(default_factory=dict)
    """Spaces that the rule `clip` needs for an ensemble."""

    def __call__(self, student: Student) -> dict[str, float]:
        """Return the unexplained fraction of the targets' variance, and top-1 accuracy under the rule `clip`.

        NMSE = E‖ŷ − y‖²/E‖y − ȳ‖² on the validation images; 1 − NMSE is R². A student with a text tower is also scored
        with its own text embeddings, on captions and on classes.
        """
        student.eval()
        outputs = self.val.embed(student, self.size, self.batch).astype(np.float64)
        metrics = {"val_nmse": nmse(outputs, self.val_target)}
        if self.text_set is not None:
            metrics["val_text_nmse"] = nmse(
                embed_tokens(student, self.text_set.val, self.batch), self.text_set.val_target
            )
        if self.zero_shot_set is not None:
            rows = self.space.to_embedding(self.zero_shot_set.images.embed(student, self.size, self.batch))
            image = image_vectors("clip", rows, self.spaces)
            metrics["zero_shot"] = self.zero_shot_set.accuracy(image, self.zero_shot_set.classes)
            if (
                self.text_set is not None
                and self.text_set.prompts is not None
                and self.text_set.prompt_tokens is not None
            ):
                rows = self.space.to_embedding(embed_tokens(student, self.text_set.prompt_tokens, self.batch), "text")
                own = prompt_vectors("clip", replace(self.text_set.prompts, embedding=rows), {})
                metrics["zero_shot_own"] = self.zero_shot_set.accuracy(image, own)
        student.train()
        return metrics


def nmse(outputs: Float[np.ndarray, "n k"], targets: Float[np.ndarray, "n k"]) -> float:
    """Return E‖ŷ − y‖²/E‖y − ȳ‖², in float64."""
    rows = targets.astype(np.float64)
    return float(np.square(outputs - rows).mean() / np.square(rows - rows.mean(axis=0)).mean())


def load_zero_shot_set(store: EmbeddingStore, pixels: PixelSource) -> ZeroShotSet | None:
    """Return the zero-shot set to watch; None if its images have no labels, or the teacher no text tower."""
    if store.labels is None or not store.has_prompts:
        return None
    classes = prompt_vectors("clip", store.prompts(), clip_spaces(store.manifest.teacher))
    return ZeroShotSet(center_views(store, pixels), store.labels, classes)


def load_text_validation(
    val: EmbeddingStore, space: TargetSpace, context: int, labeled: EmbeddingStore | None
) -> TextValidationSet:
    """Return the token ids for validation: captions of val, and the prompts of a labelled set."""
    first = val.offsets[np.flatnonzero(np.diff(val.offsets))]
    captions = truncate_tokens(caption_tokens(val)[first], context)
    target = space.to_target(val.text()[first], "text")
    if labeled is None or labeled.labels is None:
        return TextValidationSet(captions, target)
    prompts = labeled.prompts()
    return TextValidationSet(
        captions, target, prompts, tokenize(render_prompts(prompts.classes, prompts.templates), context)
    )


def build_validator(
    space: TargetSpace,
    size: int,
    batch: int,
    val: tuple[EmbeddingStore, PixelSource],
    labeled: tuple[EmbeddingStore, PixelSource] | None,
    *,
    context: int | None = None,
) -> Validator:
    """Build the validator: val, a zero-shot set if given, and with `context` the texts for a text tower."""
    store = val[0]
    zero_shot = load_zero_shot_set(*labeled) if labeled else None
    text = None if context is None else load_text_validation(store, space, context, labeled[0] if labeled else None)
    target, spaces = space.to_target(store.image().load()), clip_spaces(store.manifest.teacher)
    return Validator(space, size, batch, center_views(*val), target, zero_shot, text, spaces)


HistoryRow = dict[str, float]


def render_history(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the rows as CSV with six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: format(value, ".6g") for name, value in row.items()} for row in rows)
    return text.getvalue()


class TensorBoardLogger:
    """The history rows for TensorBoard, in one event file of a folder, written during training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shown = 0

    def log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Add new rows; the first call starts a new file, so a resumed run has all of its rows."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, only if requested

        if not self._shown:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        with SummaryWriter(str(self.folder)) as writer:
            for row in rows[self._shown :]:
                for name, value in row.items():
                    if name != "step":
                        writer.add_scalar(name, value, int(row["step"]))
        self._shown = len(rows)
