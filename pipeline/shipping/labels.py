"""Label vectors: what the teacher said of class names, from the cached prompts or kept by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from cache.arrays import read_arrays, write_arrays
from cache.reader import EmbeddingStore
from pipeline.evaluation.rules import prompt_vectors
from pipeline.project.errors import UsageError, nearest
from pipeline.project.layout import Layout

DEFAULT_SCALE = 100.0
"""CLIP's own ceiling of its learned scale, where a teacher's manifest names none."""
KEPT_TEMPLATE = "a photo of a {c}."


@dataclass(frozen=True)
class Labels:
    """Names, their unit vectors in CLIP space, and the scale that makes scores probabilities."""

    names: tuple[str, ...]
    vectors: Float[np.ndarray, "c d"]
    scale: float = DEFAULT_SCALE

    def probabilities(self, embedding: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return softmax(s · cos(x, t_c)) of each row."""
        unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        scores = self.scale * unit @ self.vectors.T
        scores -= scores.max(axis=1, keepdims=True)
        weights = np.exp(scores)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def set_labels(split: str, layout: Layout) -> Labels:
    """Return the classes of a zero-shot set, each the mean of its prompts.

    Raises:
        CacheError: the set was never embedded.
    """
    store = EmbeddingStore.open(layout.embeddings(split))
    prompts = store.prompts()
    scale = float(store.manifest.teacher.get("logit_scale", DEFAULT_SCALE))
    return Labels(prompts.classes, prompt_vectors("clip", prompts, {}), scale)


Known: TypeAlias = Mapping[str, tuple[Float[np.ndarray, " d"], float]]
"""Vector and scale of each label that needs no teacher any more."""


def known_labels(zero_shot: Sequence[str], layout: Layout) -> Known:
    """Return the labels of the cached zero-shot sets, and those kept by hand."""
    found, kept = {}, kept_file(layout)
    for split in zero_shot:
        if (layout.embeddings(split) / "manifest.json").exists():
            labels = set_labels(split, layout)
            found.update({name: (row, labels.scale) for name, row in zip(labels.names, labels.vectors, strict=True)})
    if kept.exists():
        arrays, attributes = (file := read_arrays(kept)).arrays, file.attributes
        names = [name.decode() for name in arrays["names"]]
        found.update({n: (v, float(attributes["scale"])) for n, v in zip(names, arrays["vectors"], strict=True)})
    return found


def kept_file(layout: Layout) -> Path:
    """Return the file of labels that were embedded by hand."""
    return layout.root / "data" / "labels.h5"


def named_labels(wanted: str, zero_shot: Sequence[str], layout: Layout) -> Labels:
    """Return the labels of `--labels`: a zero-shot set by its name, or `cat,dog`.

    Raises:
        UsageError: no vector is known for a name.
    """
    if wanted in zero_shot:
        return set_labels(wanted, layout)
    return choose(split_names(wanted), known_labels(zero_shot, layout))


def split_names(wanted: str) -> list[str]:
    """Return the names in `cat, dog`."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise UsageError("--labels: expected names, such as cat,dog, or a zero-shot set")
    return list(dict.fromkeys(names))


def choose(names: Sequence[str], known: Known) -> Labels:
    """Return labels by name.

    Raises:
        UsageError: no vector is known for a name; the message says how to come by one.
    """
    for name in names:
        if name not in known:
            raise UsageError(
                f"--labels: '{name}' was never embedded{nearest(name, known) or '.'} "
                f"Known: {', '.join(sorted(known)) or 'none'}. "
                "With the teacher at hand, pass --teacher to embed it once and keep it."
            )
    vectors = np.stack([known[name][0] for name in names])
    return Labels(tuple(names), np.asarray(vectors, np.float32), known[names[0]][1])


def keep(path: Path, labels: Labels) -> None:
    """Add labels to the kept ones."""
    before = read_arrays(path).arrays if path.exists() else None
    old = {} if before is None else dict(zip((n.decode() for n in before["names"]), before["vectors"], strict=True))
    merged = {**old, **dict(zip(labels.names, labels.vectors, strict=True))}
    names = np.array([name.encode() for name in merged])
    write_arrays(path, {"names": names, "vectors": np.stack(list(merged.values()))}, {"scale": labels.scale})
