"""Models for inference: a student's folder, an exported folder, or an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from cache.checksums import CHECKSUMS, read_checksums
from cache.ensemble import unit_blocks
from cache.errors import DamagedError, MissingError
from cache.teachers import widths
from pipeline.deployment.onnx_session import image_size, open_session, run_session
from pipeline.evaluation.model_files import check_arm, read_arm_card
from pipeline.project.errors import UsageError
from pipeline.project.input_files import MAX_DOCUMENT_BYTES, read_input
from pipeline.project.layout import CARD, PREPROCESS, Layout
from pipeline.project.project import Project
from pipeline.students.checkpoint import load_student
from pipeline.students.inference import embed_pixels, label_vectors

FORMAT = 2
"""Format of an exported folder in preprocess.json; since 2, checksums.json lists its files."""
CLIP = "CLIP"

Embed = Callable[[UInt8[np.ndarray, "n s s 3"]], Float[np.ndarray, "n d"]]
Read = Callable[[Sequence[str]], Float[np.ndarray, "c d"]]


@dataclass(frozen=True)
class Predictor:
    """Model that maps pixels of one size to embeddings."""

    name: str
    size: int
    embed: Embed
    embed_labels: Read | None = None
    """Embeds label names as unit vectors, if the model has its own text tower."""
    teacher: Mapping[str, Any] | None = None
    """Teacher of the embedding space; unknown for a bare ONNX file."""

    @property
    def logit_scale(self) -> float | None:
        """Return the teacher's logit scale."""
        scale = (self.teacher or {}).get("logit_scale")
        return None if scale is None else float(scale)


def open_model(path: Path) -> Predictor:
    """Open a student's folder, an exported folder or an ONNX file.

    Raises:
        MissingError: there is no model at the path.
        DamagedError: the model or its description is damaged, or has an unknown format.
        UsageError: it outputs whitened embeddings, for which there are no labels and no cached neighbors.
    """
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if (path / CARD).is_file():
        student = load_student(path)
        size = int(student.card["image_size"])  # type: ignore[call-overload]  # a card is JSON
        read = None if student.text is None else partial(label_vectors, student)
        teacher = student.card.get("teacher")
        sizes = widths(teacher or {})  # type: ignore[arg-type]

        def embed(pixels: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, "n d"]:
            rows = embed_pixels(student, pixels)
            return unit_blocks(rows, sizes) if sizes else rows

        return Predictor(path.name, size, embed, read, teacher)  # type: ignore[arg-type]
    graphs = sorted(path.glob("*.onnx"))
    if graphs:
        return _from_onnx(graphs[0])
    raise MissingError(f"{path}: no student and no exported model here. Run `python cli.py distill` or `export` first.")


def open_arm_predictor(layout: Layout, student: str, target: str) -> Predictor:
    """Open the student of an arm; raises as `open_model`, and StaleError if the folder holds another arm."""
    folder = layout.model(student, target)
    if card := read_arm_card(folder):
        check_arm(folder, card, layout)
    return open_model(folder)


def open_chosen(project: Project, path: Path | None, student: str | None, target: str | None) -> Predictor:
    """Open the model at a path or, without one, the first arm that `student` and `target` select."""
    first, *_ = project.select_arms(student, target)
    return open_model(path) if path else open_arm_predictor(project.layout, *first)


def check_exported(path: Path) -> None:
    """Check a graph and its description against the checksums of its folder; a graph moved elsewhere has none.

    Raises:
        MissingError: the folder has a description but no checksums, or a listed file is missing.
        DamagedError: a file differs from the one that `export` wrote.
    """
    if path.with_name(CHECKSUMS).exists() or path.with_name(PREPROCESS).exists():
        listed = read_checksums(path.with_name(CHECKSUMS), "Export it again.")
        for name in (path.name, PREPROCESS):
            listed.verify(name)


def _from_onnx(path: Path) -> Predictor:
    about = _about(path.with_name(PREPROCESS))  # first, because an export of another version may have no checksums
    if path.is_file():
        check_exported(path)
    session = open_session(path)
    return Predictor(
        path.name, image_size(session), lambda pixels: run_session(session, pixels)[0], None, about.get("teacher")
    )


def _about(path: Path) -> dict[str, Any]:
    """Return the description in the model's folder; empty if the file was moved elsewhere."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_input(path, MAX_DOCUMENT_BYTES))
        version, space = value["format"], value["space"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not what `export` writes ({error!r}). Export it again.") from None
    if version != FORMAT:
        raise DamagedError(f"{path}: a model of format {version}, this program reads {FORMAT}. Export it again.")
    if space != CLIP:
        raise UsageError(f"{path.parent}: speaks the target space '{space}'. Export it again with --space clip.")
    return dict(value)
