"""A model to look with, whichever form it has: a student's folder, an exported folder, or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from cache.errors import MissingError
from pipeline.shipping.session import image_size, open_session, run
from pipeline.students.checkpoint import CARD, load_student
from pipeline.students.predict import embed_pixels

Embed = Callable[[UInt8[np.ndarray, "n s s 3"]], Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Model:
    """Something that turns pixels of one size into embeddings."""

    name: str
    size: int
    embed: Embed


def open_model(path: Path) -> Model:
    """Open a student's folder, an exported folder or an ONNX file.

    Raises:
        MissingError: there is no model at the path.
        DamagedError: the model is damaged or of a format that this program does not read.
    """
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if (path / CARD).is_file():
        student = load_student(path)
        size = int(student.card["image_size"])  # type: ignore[call-overload]  # a card is JSON
        return Model(path.name, size, lambda pixels: embed_pixels(student, pixels))
    graphs = sorted(path.glob("*.onnx"))
    if graphs:
        return _from_onnx(graphs[0])
    raise MissingError(f"{path}: no student and no exported model here. Run `python cli.py distill` or `export` first.")


def _from_onnx(path: Path) -> Model:
    session = open_session(path)
    return Model(path.name, image_size(session), lambda pixels: run(session, pixels)[0])
