"""Evaluate a scorer on a choice set, next to plain cosine, chance, and its blind score."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float

from cache.manifest import FOIL_WORDS, PATCHES, WORDS
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import open_packed
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.progress import progress
from pipeline.relations.cached_tokens import CachedTokens, StudentTokens
from pipeline.relations.choice_sets import blind_scores, choice_accuracy, read_choices
from pipeline.relations.fitting import score_pairs
from pipeline.relations.params import TOKENLESS, ScorerParams
from pipeline.relations.scorers import CosineScorer, Scorer
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import center_views, embed_pixels
from pipeline.students.inputs.splits import open_split
from pipeline.students.model import Student

UNRELATED = 32
"""Number of images over which the blind score of a text is averaged."""


def open_tokens(split: str, params: ScorerParams, layout: Layout, runtime: Runtime) -> CachedTokens:
    """Open an embedded choice set for a scorer.

    Raises:
        UsageError: it has no choices, or no tokens and the scorer needs them.
        CacheError: it is missing, damaged, or was embedded from other images.
    """
    packed = open_packed(layout.packed(split))
    store = EmbeddingStore.open(layout.embeddings(split), runtime.verify).require_source(packed.digest)
    choices = read_choices(packed, runtime.verify)
    if params.kind not in TOKENLESS:
        missing = [part for part in (PATCHES, WORDS, FOIL_WORDS) if not store.manifest.has_parts(part)]
        if missing:
            raise UsageError(
                f"relate: {store.folder} has no {', '.join(missing)}, which {params.kind} reads: add '{split}' to "
                "embed.tokens.splits and run embed again, or use labclip"
            )
    return CachedTokens(store, choices, params)


def score_set(scorer: Scorer, tokens: CachedTokens | StudentTokens) -> dict[str, Any]:
    """Return the accuracy of a scorer on every task of a set, that of cosine, and the blind accuracy."""
    choices = tokens.choices
    with progress(f"relate {tokens.store.manifest.split}", len(choices.pairs), "pairs") as advance:
        scores = score_pairs(scorer, tokens, choices.pairs, advance)
    blind = blind_scores(choices, unrelated_scores(scorer, tokens))
    cosine = _cosine(tokens)
    return {
        task: {
            "scorer": asdict(choice_accuracy(choices, scores, task)),
            "cosine": asdict(choice_accuracy(choices, cosine, task)),
            "blind": choice_accuracy(choices, blind, task).text,
        }
        for task in choices.tasks
    }


def unrelated_scores(scorer: Scorer, tokens: CachedTokens | StudentTokens) -> Float[np.ndarray, "r m"]:
    """Return the score of every text with some evenly spaced images of the set."""
    images = np.unique(np.linspace(0, tokens.store.rows - 1, UNRELATED).astype(np.int64))
    texts = np.arange(len(tokens.choices.texts))
    # Sorted by text: a block of pairs reads a few texts and these images, and no text is read twice.
    pairs = np.stack([np.tile(images, len(texts)), texts.repeat(len(images))], axis=1)
    return score_pairs(scorer, tokens, pairs).reshape(len(texts), len(images)).T


def _cosine(tokens: CachedTokens | StudentTokens) -> Float[np.ndarray, " q"]:
    return score_pairs(CosineScorer(), tokens.without_tokens(), tokens.choices.pairs)


SEEN_ROWS = 256
"""Batch size of a student's forward passes."""


def embed_split_places(
    student: Student, split: str, grid: int, layout: Layout, runtime: Runtime
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n p d"]]:
    """Return a student's embeddings and half-precision tokens of the center views of a split.

    Without a grid there are no tokens, for scorers of pooled vectors.

    Raises:
        CacheError: the split is missing or damaged.
        UsageError: the student has no tokens, or does not support this grid.
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
