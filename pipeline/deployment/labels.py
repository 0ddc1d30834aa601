"""Label vectors: the teacher's embeddings of class names, from cached prompts or from labels embedded by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cache.arrays import ArrayFile, read_arrays, write_arrays
from cache.ensemble import open_store
from cache.errors import StaleError
from cache.fingerprint import fingerprint
from cache.manifest import NAME, read_manifest
from cache.normalization import l2_normalize
from cache.teachers import is_embedded_by
from pipeline.deployment.predictor import Predictor
from pipeline.evaluation.scoring_rules import prompt_vectors
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.input_files import MAX_DOCUMENT_BYTES, read_input
from pipeline.project.layout import Layout
from pipeline.project.terminal import is_text, printable

DEFAULT_SCALE = 100.0
"""CLIP's upper limit of the learned logit scale; used if a teacher's manifest has none."""
DEFAULT_TEMPLATE = "a photo of a {c}."
SAVED_LABELS = "labels-{}.h5"
FILES = (".txt", ".lst", ".names")
"""Extensions of files with label names."""


@dataclass(frozen=True)
class Labels:
    """Label names, their unit vectors in CLIP space, and the logit scale for probabilities."""

    names: tuple[str, ...]
    vectors: Float[np.ndarray, "c d"]
    scale: float = DEFAULT_SCALE

    def probabilities(self, embedding: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return softmax(s · cos(x, t_c)) of each row."""
        scores = self.scale * l2_normalize(embedding) @ self.vectors.T
        scores -= scores.max(axis=1, keepdims=True)
        weights = np.exp(scores)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def labels_of_split(split: str, layout: Layout, teacher: Mapping[str, Any] | None = None) -> Labels:
    """Return the classes of a zero-shot set, each the mean of its prompts, by a teacher (default: the first).

    Raises:
        CacheError: the set was never embedded, or not by that teacher.
        UsageError: the teacher has no text tower.
    """
    store = open_store(layout.embeddings(split), teacher)
    if not store.has_prompts:
        model = store.manifest.teacher.get("model")
        raise UsageError(f"--labels {split}: {model} reads no text, so there are no labels in its space")
    prompts = store.prompts()
    scale = float(store.manifest.teacher.get("logit_scale", DEFAULT_SCALE))
    return Labels(prompts.classes, prompt_vectors("clip", prompts, {}), scale)


@dataclass(frozen=True)
class KnownLabels:
    """Cached vector and logit scale of each label, and the splits embedded by other teachers."""

    vectors: Mapping[str, tuple[Float[np.ndarray, " d"], float]]
    other_teacher_splits: tuple[str, ...] = ()
    """Zero-shot sets embedded by another teacher."""


def known_labels(zero_shot: Sequence[str], layout: Layout, teacher: Mapping[str, Any] | None = None) -> KnownLabels:
    """Return the cached labels: those of the zero-shot sets and those embedded by hand, of one teacher if given."""
    vectors: dict[str, tuple[Float[np.ndarray, " d"], float]] = {}
    others = []
    for split in zero_shot:
        if (layout.embeddings(split) / NAME).exists():
            if teacher is not None and not is_embedded_by(layout.embeddings(split), teacher):
                others.append(split)
                continue
            labels = labels_of_split(split, layout, teacher)
            vectors.update({name: (row, labels.scale) for name, row in zip(labels.names, labels.vectors, strict=True)})
    for split_labels in (
        [saved_labels_path(layout, teacher)]
        if teacher
        else sorted((layout.root / "data").glob(SAVED_LABELS.format("*")))
    ):
        if split_labels.exists():
            arrays, attributes = (file := read_kept(split_labels)).arrays, file.attributes
            names = [name.decode() for name in arrays["names"]]
            vectors.update({n: (v, float(attributes["scale"])) for n, v in zip(names, arrays["vectors"], strict=True)})
    return KnownLabels(vectors, tuple(others))


def read_kept(path: Path) -> ArrayFile:
    """Read a file of labels that were embedded by hand.

    Raises:
        DamagedError: it was changed after it was written.
        StaleError: it belongs to another teacher.
    """
    file = read_arrays(path)
    if (own := file.attributes.get("file", path.name)) != path.name:  # files of an earlier version lack this field
        raise StaleError(f"{path}: is {own}, labels by another teacher: it was renamed. Move it back, or delete it.")
    return file


def saved_labels_path(layout: Layout, teacher: Mapping[str, Any]) -> Path:
    """Return the path of the labels embedded by hand; each teacher has its own file."""
    return layout.root / "data" / SAVED_LABELS.format(fingerprint({"teacher": dict(teacher)}))


def resolve_labels(request: str, zero_shot: Sequence[str], layout: Layout, model: Predictor | None = None) -> Labels:
    """Return the labels of `--labels`: a zero-shot set by name, `cat,dog`, or a file with one name per line.

    Vectors come from the cached prompts and the labels embedded by hand. If one is missing and the model has its own
    text tower, all vectors come from that tower, because vectors of two towers cannot be compared.

    Raises:
        UsageError: a name has no vector, the file does not exist, or the set belongs to another teacher.
    """
    teacher = None if model is None else model.teacher
    available = known_labels(zero_shot, layout, teacher)
    if request in available.other_teacher_splits:
        raise UsageError(
            f"--labels {request}: embedded by {read_manifest(layout.embeddings(request)).teacher.get('model')}, but "
            f"the model speaks the space of {(teacher or {}).get('model')}. Embed the set with that teacher."
        )
    if request in zero_shot:
        return labels_of_split(request, layout, teacher)
    names = split_names(request)
    if model is not None and model.embed_labels is not None and any(name not in available.vectors for name in names):
        vectors = np.asarray(model.embed_labels(names), np.float32)
        return Labels(tuple(names), vectors, model.logit_scale or DEFAULT_SCALE)
    return select_labels(names, available)


def split_names(request: str) -> list[str]:
    """Return the names in `cat, dog`, or in a file with one per line; raises UsageError if there are none."""
    path = Path(request)
    is_file = path.suffix in FILES
    if is_file:
        try:
            lines = read_input(path, MAX_DOCUMENT_BYTES).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(f"--labels {request}: cannot be read: {reason}. Expected one name a line.") from None
    else:
        lines = request.split(",")
    names = [name.strip() for name in lines if name.strip()]
    if not names:
        raise UsageError(f"--labels {request if is_file else ''}: expected names, such as cat,dog, or a zero-shot set")
    if any(not is_text(name) for name in names):
        raise UsageError(f"--labels {printable(request)[:80]}: a name is not UTF-8")
    return list(dict.fromkeys(names))


def select_labels(names: Sequence[str], available: KnownLabels) -> Labels:
    """Return labels by name.

    Raises:
        UsageError: a name has no vector; the message says how to embed it.
    """
    for name in names:
        if name not in available.vectors:
            sets = (
                f" ({', '.join(available.other_teacher_splits)}: of another teacher)"
                if available.other_teacher_splits
                else ""
            )
            raise UsageError(
                f"--labels: '{name}' was never embedded{did_you_mean(name, available.vectors) or '.'} "
                f"Known: {', '.join(sorted(available.vectors)) or 'none'}{sets}; the student has no text tower "
                "that could read it. With the teacher at hand, pass --teacher to embed it once and keep it."
            )
    vectors = np.stack([available.vectors[name][0] for name in names])
    return Labels(tuple(names), np.asarray(vectors, np.float32), available.vectors[names[0]][1])


def save_labels(path: Path, labels: Labels) -> None:
    """Add labels to the file of labels embedded by hand."""
    before = read_kept(path).arrays if path.exists() else None
    old = {} if before is None else dict(zip((n.decode() for n in before["names"]), before["vectors"], strict=True))
    merged = {**old, **dict(zip(labels.names, labels.vectors, strict=True))}
    names = np.array([name.encode() for name in merged])
    arrays = {"names": names, "vectors": np.stack(list(merged.values()))}
    write_arrays(path, arrays, {"scale": labels.scale, "file": path.name})
