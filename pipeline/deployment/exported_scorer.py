"""Export a relation scorer with a student, and choose the true caption of a picture with onnxruntime alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from cache.atomic import write_json
from cache.checksums import CHECKSUMS, read_checksums
from cache.errors import MissingError
from cache.normalization import l2_normalize
from pipeline.deployment.onnx_session import open_session, run_session
from pipeline.deployment.relation_graphs import SCORER, run_graph, write_scorer_graph
from pipeline.evaluation.model_files import read_arm_card
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import PREPROCESS, Layout
from pipeline.project.params import parse
from pipeline.relations.params import ScorerParams
from pipeline.relations.score_files import CARD
from pipeline.relations.scorer_files import load_scorer, load_students_scorer
from pipeline.relations.scorers import ImageTokens, Scorer, TextTokens
from pipeline.students.dense_tokens import embed_places
from pipeline.students.model import Student

SCORED_ROWS = 16
"""Number of images on which exported tokens and scores are compared with torch."""
TOLERANCE = 1e-4
"""Tolerance for tokens, which are unit vectors, and for scores relative to the largest."""
REMEDY = "Export it again with --scorer."


@dataclass(frozen=True)
class ExportedScorer:
    """A fitted scorer and the description that an export needs."""

    name: str
    scorer: Scorer
    card: Mapping[str, Any]
    own: bool
    """Whether the scorer was fitted on the student's own tokens."""

    @property
    def params(self) -> ScorerParams:
        """Return the scorer's parameters."""
        return parse(self.card["params"], f"{CARD}: params", ScorerParams)

    @property
    def grid(self) -> int:
        """Return the side of the token grid; 0 for a scorer of pooled vectors."""
        return math.isqrt(int(self.card["patches"]))


def open_scorer(name: str, folder: Path, layout: Layout) -> ExportedScorer:
    """Return the scorer fitted on a student's own tokens or, if there is none, the one fitted on its teacher's.

    Raises:
        UsageError: the scorer belongs to another teacher.
        CacheError: no scorer is fitted, or it is damaged or belongs to another student.
    """
    student = read_arm_card(folder) or {}
    student_scorer = load_students_scorer(folder, name, str(student.get("weights_sha256")))
    scorer, card = student_scorer or load_scorer(layout.scorer(name))
    if card["teacher"] != student.get("teacher"):
        raise UsageError(f"--scorer {name}: fitted on {card['teacher'].get('model')}, and {folder} has another teacher")
    return ExportedScorer(name, scorer, card, own=student_scorer is not None)


def write_scorer(
    folder: Path, exported: ExportedScorer, outputs: list[Any], student: Student, pixels: UInt8[np.ndarray, "n s s 3"]
) -> None:
    """Write `scorer.onnx` and its description, after comparing tokens and scores with torch.

    Raises:
        PipelineError: they differ by more than the tolerance.
    """
    card, params = exported.card, exported.params
    dim, patches = int(card["dim"]), int(card["patches"])
    tokens = np.asarray(outputs[-1] if exported.grid else np.zeros((len(outputs[0]), 0, dim), np.float32))
    if exported.grid:
        _require(np.abs(tokens - embed_places(student, pixels[: len(tokens)], exported.grid)).max(), "tokens")
    write_scorer_graph(folder / SCORER, exported.scorer, dim, patches, params.columns)
    inputs = _example(outputs[0], tokens, params.columns)
    image, places, *text = (torch.from_numpy(array) for array in inputs.values())
    with torch.inference_mode():
        expected = exported.scorer(ImageTokens(image, places), TextTokens(*text)).numpy()
    scores = run_graph(folder / SCORER, inputs)[0]
    _require(np.abs(scores - expected).max() / max(1.0, float(np.abs(expected).max())), "scores")
    facts = {name: card[name] for name in ("dim", "patches", "params", "teacher")}
    write_json(folder / CARD, {"scorer": exported.name, "fitted_on": "student" if exported.own else "teacher", **facts})


def _example(pooled: np.ndarray, tokens: np.ndarray, columns: int) -> dict[str, np.ndarray]:
    """Return example inputs of a scorer: real images with random captions of every length."""
    count, dim = pooled.shape
    words = np.random.default_rng(0).standard_normal((count, columns, dim)).astype(np.float32)
    words = l2_normalize(words.reshape(-1, words.shape[-1])).reshape(words.shape)
    valid = np.arange(columns)[None] < 2 + np.arange(count)[:, None] % (columns - 1)
    marked = np.full((count, columns), -1, np.int64)
    marked[:, 1] = 0
    return {
        "image": pooled.astype(np.float32),
        "patches": tokens.astype(np.float32),
        "text": words[:, 0],
        "words": words * valid[..., None],
        "valid": valid,
        "functional_row": marked,
    }


def _require(difference: Any, what: str) -> None:
    if not float(difference) <= TOLERANCE:
        raise PipelineError(f"{what} of the export are off by {difference:.2g}: nothing was exported")


@dataclass(frozen=True)
class ExportedChooser:
    """Opened export folder that has a scorer."""

    folder: Path
    params: ScorerParams
    teacher: Mapping[str, Any]
    model: Any

    @classmethod
    def open(cls, folder: Path) -> ExportedChooser:
        """Open an exported folder.

        Raises:
            MissingError: it was exported without a scorer, or files are missing.
            DamagedError: a file differs from the one that `export` wrote.
        """
        if not (folder / SCORER).is_file():
            raise MissingError(f"{folder / SCORER}: no scorer. Export the student with --scorer NAME first.")
        listed = read_checksums(folder / CHECKSUMS, REMEDY)
        for name in (SCORER, CARD, PREPROCESS):
            listed.verify(name)
        file = json.loads(listed.read(PREPROCESS))["model"]
        listed.verify(file)
        card = json.loads(listed.read(CARD))
        params = parse(card["params"], f"{CARD}: params", ScorerParams)
        return cls(folder, params, card["teacher"], open_session(folder / file))

    @property
    def size(self) -> int:
        """Return the side of the input images."""
        return int(self.model.get_inputs()[0].shape[1])

    def scores(self, pixels: UInt8[np.ndarray, "1 s s 3"], texts: TextTokens) -> tuple[list[float], list[float]]:
        """Return the score and the cosine of each caption."""
        outputs, count = run_session(self.model, pixels), len(texts.pooled)
        names = [output.name for output in self.model.get_outputs()]
        pooled = outputs[names.index("embedding")]
        tokens = outputs[names.index("tokens")] if "tokens" in names else np.zeros((1, 0, pooled.shape[1]), np.float32)
        inputs = {
            "image": pooled.repeat(count, axis=0),
            "patches": tokens.repeat(count, axis=0),
            "text": texts.pooled.numpy(),
            "words": texts.words.numpy(),
            "valid": texts.valid.numpy(),
            "functional_row": texts.functional_row.numpy(),
        }
        scores: Float[np.ndarray, " m"] = run_graph(self.folder / SCORER, inputs)[0]
        unit = [l2_normalize(rows) for rows in (inputs["image"], inputs["text"])]
        return scores.tolist(), (unit[0] * unit[1]).sum(axis=1).tolist()
