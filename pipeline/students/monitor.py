"""How a student does while it learns: on held-out images, and on one zero-shot set, from the cache alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from cache.reader import EmbeddingStore
from cache.shard import PromptShard
from pipeline.data.prompts import render
from pipeline.evaluation.rules import prompt_vectors, unit
from pipeline.evaluation.zeroshot import classify
from pipeline.project.errors import DivergedError
from pipeline.students.feed import Pixels
from pipeline.students.model import Student
from pipeline.students.predict import embed_pixels, embed_tokens
from pipeline.students.targets import caption_tokens
from pipeline.students.text import shortened, tokenize
from pipeline.whitening.spaces import TargetSpace


@dataclass(frozen=True)
class HeldOut:
    """The center view of a split."""

    pixels: Pixels
    boxes: Float[np.ndarray, "n 4"]
    flips: Bool[np.ndarray, " n"]

    def embed(self, student: Student, size: int, batch: int) -> Float[np.ndarray, "n k"]:
        """Return what a student says of every image; raises DivergedError where that is no direction."""
        chunks = [np.arange(i, min(i + batch, len(self.flips))) for i in range(0, len(self.flips), batch)]
        rows = np.concatenate([embed_pixels(student, self._chunk(rows, size), batch) for rows in chunks])
        return refuse_diverged(rows)

    def _chunk(self, rows: Int64[np.ndarray, " b"], size: int) -> np.ndarray:
        return self.pixels.batch(rows, self.boxes[rows], self.flips[rows], size)


@dataclass(frozen=True)
class Watched:
    """A zero-shot set: its images, their classes, and one CLIP-space vector per class."""

    images: HeldOut
    labels: Int64[np.ndarray, " n"]
    classes: Float[np.ndarray, "c d"]


@dataclass(frozen=True)
class Words:
    """What a student with a text tower reads between steps, as token ids."""

    val: Int[np.ndarray, "n l"]
    """The first caption of each validation image that has one."""
    val_target: Float[np.ndarray, "n k"]
    prompts: PromptShard | None = None
    """Those of the watched set, if its images have labels."""
    prompt_tokens: Int[np.ndarray, "p l"] | None = None


@dataclass(frozen=True)
class Monitor:
    """What is looked at between steps."""

    space: TargetSpace
    size: int
    batch: int
    val: HeldOut
    val_target: Float[np.ndarray, "n k"]
    watched: Watched | None
    words: Words | None = None

    def __call__(self, student: Student) -> dict[str, float]:
        """Return the share of the targets' variance left unexplained, and top-1 by CLIP's own rule.

        NMSE = E‖ŷ − y‖²/E‖y − ȳ‖² on the validation images; 1 − NMSE is R². A student that reads is also scored
        on its own: on captions, and on classes as its own text tower reads them.
        """
        student.eval()
        said = self.val.embed(student, self.size, self.batch).astype(np.float64)
        found = {"val_nmse": nmse(said, self.val_target)}
        if self.words is not None:
            found["val_text_nmse"] = nmse(embed_tokens(student, self.words.val, self.batch), self.words.val_target)
        if self.watched is not None:
            image = unit(self.space.to_clip(self.watched.images.embed(student, self.size, self.batch)))
            found["zero_shot"] = classify(image, self.watched.classes, self.watched.labels).accuracy
            if self.words is not None and self.words.prompts is not None and self.words.prompt_tokens is not None:
                rows = self.space.to_clip(embed_tokens(student, self.words.prompt_tokens, self.batch), "text")
                own = prompt_vectors("clip", replace(self.words.prompts, embedding=rows), {})
                found["zero_shot_own"] = classify(image, own, self.watched.labels).accuracy
        student.train()
        return found


def refuse_diverged(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Return a student's embeddings as they are.

    Raises:
        DivergedError: a row is not finite, or all zeros: its weights have left the numbers after the last step.
    """
    wrong = ~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1)
    if wrong.any():
        raise DivergedError(
            f"distill: the student says infinity, no number or only zeros of {wrong.sum()} of {len(rows)} images. "
            "Lower learning_rate or set gradient_clip."
        )
    return rows


def nmse(said: Float[np.ndarray, "n k"], wanted: Float[np.ndarray, "n k"]) -> float:
    """Return E‖ŷ − y‖²/E‖y − ȳ‖², in float64."""
    targets = wanted.astype(np.float64)
    return float(np.square(said - targets).mean() / np.square(targets - targets.mean(axis=0)).mean())


def held_out(store: EmbeddingStore, pixels: Pixels) -> HeldOut:
    """Return the center view of an embedded split."""
    return HeldOut(pixels, store.boxes(0), store.flips(0))


def watched(store: EmbeddingStore, pixels: Pixels) -> Watched | None:
    """Return a zero-shot set to follow; nothing where its images have no labels."""
    if store.labels is None:
        return None
    return Watched(held_out(store, pixels), store.labels, prompt_vectors("clip", store.prompts(), {}))


def words(val: EmbeddingStore, space: TargetSpace, context: int, labelled: EmbeddingStore | None) -> Words:
    """Return what there is to read between steps: validation captions, and the prompts of a labelled set."""
    first = val.offsets[np.flatnonzero(np.diff(val.offsets))]
    captions = shortened(caption_tokens(val)[first], context)
    target = space.to_target(val.text()[first], "text")
    if labelled is None or labelled.labels is None:
        return Words(captions, target)
    prompts = labelled.prompts()
    return Words(captions, target, prompts, tokenize(render(prompts.classes, prompts.templates), context))
