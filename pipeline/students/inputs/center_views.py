"""Center views of a split, and a student's embeddings of them: for validation, evaluation and comparisons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from cache.reader import EmbeddingStore
from pipeline.project.errors import DivergedError
from pipeline.students.inference import embed_pixels
from pipeline.students.inputs.loader import PixelSource
from pipeline.students.model import Student


@dataclass(frozen=True)
class CenterViews:
    """The center view of each image of a split, the one that the teacher embedded."""

    pixels: PixelSource
    boxes: Float[np.ndarray, "n 4"]
    flips: Bool[np.ndarray, " n"]

    def embed(self, student: Student, size: int, batch: int) -> Float[np.ndarray, "n k"]:
        """Return the student's embedding of every image; raises DivergedError where one has no direction."""
        chunks = [np.arange(i, min(i + batch, len(self.flips))) for i in range(0, len(self.flips), batch)]
        rows = np.concatenate([embed_pixels(student, self._chunk(rows, size), batch) for rows in chunks])
        return check_finite_rows(rows)

    def _chunk(self, rows: Int64[np.ndarray, " b"], size: int) -> np.ndarray:
        return self.pixels.batch(rows, self.boxes[rows], self.flips[rows], size)


def center_views(store: EmbeddingStore, pixels: PixelSource) -> CenterViews:
    """Return the center view of an embedded split."""
    return CenterViews(pixels, store.boxes(0), store.flips(0))


def check_finite_rows(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Return a student's embeddings if they are finite and none is zero.

    Raises:
        DivergedError: a row is not finite, or all zeros: the student diverged.
    """
    wrong = ~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1)
    if wrong.any():
        raise DivergedError(
            f"distill: the student's embeddings of {wrong.sum()} of {len(rows)} images are infinite, NaN or all zeros. "
            "Lower learning_rate or set gradient_clip."
        )
    return rows
