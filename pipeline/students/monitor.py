"""How a student does while it learns: on held-out images, and on one zero-shot set, from the cache alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from cache.reader import EmbeddingStore
from pipeline.evaluation.rules import prompt_vectors, unit
from pipeline.evaluation.zeroshot import classify
from pipeline.students.feed import Pixels
from pipeline.students.model import Student
from pipeline.students.predict import embed_pixels
from pipeline.whitening.spaces import TargetSpace


@dataclass(frozen=True)
class HeldOut:
    """The center view of a split."""

    pixels: Pixels
    boxes: Float[np.ndarray, "n 4"]
    flips: Bool[np.ndarray, " n"]

    def embed(self, student: Student, size: int, batch: int) -> Float[np.ndarray, "n k"]:
        """Return what a student says of every image."""
        chunks = [np.arange(i, min(i + batch, len(self.flips))) for i in range(0, len(self.flips), batch)]
        return np.concatenate([embed_pixels(student, self._chunk(rows, size), batch) for rows in chunks])

    def _chunk(self, rows: Int64[np.ndarray, " b"], size: int) -> np.ndarray:
        return self.pixels.batch(rows, self.boxes[rows], self.flips[rows], size)


@dataclass(frozen=True)
class Watched:
    """A zero-shot set: its images, their classes, and one CLIP-space vector per class."""

    images: HeldOut
    labels: Int64[np.ndarray, " n"]
    classes: Float[np.ndarray, "c d"]


@dataclass(frozen=True)
class Monitor:
    """What is looked at between steps."""

    space: TargetSpace
    size: int
    batch: int
    val: HeldOut
    val_target: Float[np.ndarray, "n k"]
    watched: Watched | None

    def __call__(self, student: Student) -> dict[str, float]:
        """Return the share of the targets' variance left unexplained, and top-1 by CLIP's own rule.

        NMSE = E‖ŷ − y‖²/E‖y − ȳ‖² on the validation images; 1 − NMSE is R².
        """
        student.eval()
        said = self.val.embed(student, self.size, self.batch).astype(np.float64)
        found = {"val_nmse": nmse(said, self.val_target)}
        if self.watched is not None:
            image = self.space.to_clip(self.watched.images.embed(student, self.size, self.batch))
            found["zero_shot"] = classify(unit(image), self.watched.classes, self.watched.labels).accuracy
        student.train()
        return found


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
