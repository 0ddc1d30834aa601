"""Embeddings of images and texts by a student; the center views of a split, for validation and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8

from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.data.prompts import render_prompts
from pipeline.project.errors import DivergedError, UsageError
from pipeline.students.inputs.loader import PixelSource
from pipeline.students.inputs.targets import caption_tokens
from pipeline.students.model import Student, normalize_pixels
from pipeline.students.text_tower import TextTower, tokenize, truncate_tokens


@torch.inference_mode()
def embed_pixels(student: Student, pixels: UInt8[np.ndarray, "n s s 3"], batch: int = 256) -> Float[np.ndarray, "n d"]:
    """Return the embeddings of images, in CLIP space for a student loaded from its folder."""
    mean, std = student.mean_std
    device = next(student.parameters()).device
    out = np.empty((len(pixels), student.dim), dtype=np.float32)
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.require(pixels[start : start + batch], requirements=["C", "W"])).to(device)
        out[start : start + batch] = student(normalize_pixels(part, mean, std)).float().cpu().numpy()
    return out


@torch.inference_mode()
def embed_tokens(student: Student, tokens: Int[np.ndarray, "m l"], batch: int = 256) -> Float[np.ndarray, "m d"]:
    """Return the text tower's embeddings of token ids, in its output space.

    Raises:
        UsageError: the student has no text tower.
    """
    tower = require_text_tower(student)
    device = next(student.parameters()).device
    out = np.empty((len(tokens), tower.dim), dtype=np.float32)
    order = np.argsort(tokens.argmax(axis=1), kind="stable")  # sorted by length, to reduce padding
    for start in range(0, len(tokens), batch):
        rows = order[start : start + batch]
        out[rows] = tower(torch.from_numpy(tokens[rows].astype(np.int64)).to(device)).float().cpu().numpy()
    return out


def embed_texts(student: Student, texts: Sequence[str], batch: int = 256) -> Float[np.ndarray, "m d"]:
    """Return the text tower's embeddings of texts.

    Raises:
        UsageError: the student has no text tower.
    """
    return embed_tokens(student, tokenize(texts, require_text_tower(student).context), batch)


def embed_split_texts(student: Student, store: EmbeddingStore, batch: int = 256) -> Float[np.ndarray, "m d"] | None:
    """Return the student's own embeddings of a split's captions or class prompts; None without a text tower."""
    if student.text is None:
        return None
    if store.has_captions:
        return embed_tokens(student, truncate_tokens(caption_tokens(store), student.text.context), batch)
    if not store.has_prompts:
        return None
    prompts = store.prompts()
    return embed_texts(student, render_prompts(prompts.classes, prompts.templates), batch)


def label_vectors(
    student: Student, names: Sequence[str], templates: Sequence[str] = ("a photo of a {c}.",)
) -> Float[np.ndarray, "c d"]:
    """Return one unit vector per label from the student's own text tower, without teacher and cache.

    Each template's embedding is normalized, then their mean, as in open_clip.

    Raises:
        UsageError: the student has no text tower.
    """
    prompts = l2_normalize(embed_texts(student, render_prompts(names, templates)))
    return l2_normalize(prompts.reshape(len(names), -1, prompts.shape[1]).mean(axis=1))


def require_text_tower(student: Student) -> TextTower:
    """Return the text tower of a student.

    Raises:
        UsageError: it has none.
    """
    if student.text is None:
        raise UsageError(
            f"student '{student.name}' has no text tower of its own: use the teacher's cached text, or distil it with "
            f"distill.{student.name}.text"
        )
    return student.text


@dataclass(frozen=True)
class CenterViews:
    """The center view of each image of a split."""

    pixels: PixelSource
    boxes: Float[np.ndarray, "n 4"]
    flips: Bool[np.ndarray, " n"]

    def embed(self, student: Student, size: int, batch: int) -> Float[np.ndarray, "n k"]:
        """Return the student's embedding of every image; raises DivergedError if one is zero or not finite."""
        chunks = [np.arange(i, min(i + batch, len(self.flips))) for i in range(0, len(self.flips), batch)]
        rows = np.concatenate([embed_pixels(student, self._chunk(rows, size), batch) for rows in chunks])
        return check_finite_rows(rows)

    def _chunk(self, rows: Int64[np.ndarray, " b"], size: int) -> np.ndarray:
        return self.pixels.batch(rows, self.boxes[rows], self.flips[rows], size)


def center_views(store: EmbeddingStore, pixels: PixelSource) -> CenterViews:
    """Return the center view of an embedded split."""
    return CenterViews(pixels, store.boxes(0), store.flips(0))


def check_finite_rows(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Return a student's embeddings if they are finite and nonzero.

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
