"""Embeddings of images and texts by a student."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.data.prompts import render_prompts
from pipeline.project.errors import UsageError
from pipeline.students.inputs.targets import caption_tokens
from pipeline.students.model import Student, normalize_pixels
from pipeline.students.text_tower import TextTower, tokenize, truncate_tokens


@torch.inference_mode()
def embed_pixels(student: Student, pixels: UInt8[np.ndarray, "n s s 3"], batch: int = 256) -> Float[np.ndarray, "n d"]:
    """Return the embeddings of images, in CLIP space for a student that was loaded from its folder."""
    mean, std = student.mean_std
    device = next(student.parameters()).device
    out = np.empty((len(pixels), student.dim), dtype=np.float32)
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.require(pixels[start : start + batch], requirements=["C", "W"])).to(device)
        out[start : start + batch] = student(normalize_pixels(part, mean, std)).float().cpu().numpy()
    return out


@torch.inference_mode()
def embed_tokens(student: Student, tokens: Int[np.ndarray, "m l"], batch: int = 256) -> Float[np.ndarray, "m d"]:
    """Return the embeddings of token ids by the student's own text tower, in its output space.

    Raises:
        UsageError: it has no text tower.
    """
    tower = require_text_tower(student)
    device = next(student.parameters()).device
    out = np.empty((len(tokens), tower.dim), dtype=np.float32)
    order = np.argsort(tokens.argmax(axis=1), kind="stable")  # short texts beside short ones: little is padding
    for start in range(0, len(tokens), batch):
        rows = order[start : start + batch]
        out[rows] = tower(torch.from_numpy(tokens[rows].astype(np.int64)).to(device)).float().cpu().numpy()
    return out


def embed_texts(student: Student, texts: Sequence[str], batch: int = 256) -> Float[np.ndarray, "m d"]:
    """Return the embeddings of texts by the student's own text tower.

    Raises:
        UsageError: it has no text tower.
    """
    return embed_tokens(student, tokenize(texts, require_text_tower(student).context), batch)


def embed_split_texts(student: Student, store: EmbeddingStore, batch: int = 256) -> Float[np.ndarray, "m d"] | None:
    """Return the student's own embeddings of a split's captions, or of its class prompts; None without a text tower."""
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
    """Return one unit vector per label from the student's own text tower: no teacher, nothing cached.

    Each template's embedding is normalized, then their mean, as open_clip does it.

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
