"""What a student says of the places of a split's images: the very views that its teacher saw."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pipeline.project.layout import Layout
from pipeline.project.runtime import Runtime
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import embed_pixels
from pipeline.students.inputs.center_views import center_views
from pipeline.students.inputs.splits import open_split
from pipeline.students.model import Student

SEEN_ROWS = 256
"""Images that a student sees at a time."""


def embed_split_places(
    student: Student, split: str, grid: int, layout: Layout, runtime: Runtime
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n p d"]]:
    """Return a student's embeddings and tokens of the center views of a split, the tokens as half floats.

    Without a grid there are no tokens: for scorers of pooled vectors.

    Raises:
        CacheError: the split is missing or damaged.
        UsageError: the student has no tokens, or cannot have this grid.
    """
    opened, size = open_split(split, layout, runtime), int(student.card["image_size"])  # type: ignore[call-overload]
    views = center_views(opened.store, opened.pixels(size, 1, layout, runtime))
    pooled, patches = [], []
    for start in range(0, len(views.flips), SEEN_ROWS):
        rows = np.arange(start, min(start + SEEN_ROWS, len(views.flips)))
        pixels = views.pixels.batch(rows, views.boxes[rows], views.flips[rows], size)
        pooled.append(embed_pixels(student, pixels, runtime.batch))
        patches.append(embed_places(student, pixels, grid).astype(np.float16) if grid else np.zeros((len(rows), 0, 1)))
    return np.concatenate(pooled), np.concatenate(patches)
