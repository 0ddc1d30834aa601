"""Export a student's tokens and a relation scorer as two ONNX graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import DamagedError
from pipeline.deployment.onnx_graph import export_graph
from pipeline.deployment.onnx_session import open_session
from pipeline.relations.scorers import ImageTokens, Scorer, TextTokens
from pipeline.students.dense_tokens import backbone_on_grid
from pipeline.students.model import Student, normalize_pixels

TOKENS, SCORER = "tokens.onnx", "scorer.onnx"


class TokenGraph(nn.Module):
    """Module from uint8 images to embeddings and unit-length patch tokens, both in CLIP space."""

    def __init__(self, student: Student, size: int, grid: int) -> None:
        super().__init__()
        self.student = student
        blank = torch.zeros((2, size, size, 3), dtype=torch.uint8)
        self.backbone = backbone_on_grid(student, grid, normalize_pixels(blank, *student.mean_std))

    def forward(self, image: UInt8[Tensor, "b s s 3"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b p d"]]:
        """Return embedding and tokens."""
        pixels = normalize_pixels(image, *self.student.mean_std)
        features = self.backbone.forward_features(pixels).flatten(2).transpose(1, 2)
        return self.student(pixels), functional.normalize(self.student.project(features), dim=-1)


class ScorerGraph(nn.Module):
    """Module from an image's embedding and tokens and a caption's vector and tokens to their score, row by row."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(  # noqa: PLR0917  the inputs of a graph
        self,
        image: Float[Tensor, "b d"],
        patches: Float[Tensor, "b p d"],
        text: Float[Tensor, "b d"],
        words: Float[Tensor, "b t d"],
        valid: Bool[Tensor, "b t"],
        functional_row: Int[Tensor, "b t"],
    ) -> Float[Tensor, " b"]:
        """Return the score of each pair."""
        scores: Tensor = self.scorer(ImageTokens(image, patches), TextTokens(text, words, valid, functional_row))
        return scores


def write_token_graph(path: Path, student: Student, size: int, grid: int) -> None:
    """Write a student's tokens as ONNX; raises UsageError if the student has none."""
    example = {"image": torch.zeros((2, size, size, 3), dtype=torch.uint8)}
    export_graph(path, TokenGraph(student, size, grid), example, ["embedding", "tokens"])


def write_scorer_graph(path: Path, scorer: Scorer, dim: int, patches: int, columns: int) -> None:
    """Write a scorer as ONNX, with as many token columns as it was fitted with."""
    example = {
        "image": torch.zeros(2, dim),
        "patches": torch.zeros(2, patches, dim),
        "text": torch.zeros(2, dim),
        "words": torch.zeros(2, columns, dim),
        "valid": torch.ones(2, columns, dtype=torch.bool),
        "functional_row": torch.full((2, columns), -1, dtype=torch.int64),
    }
    export_graph(path, ScorerGraph(scorer), example, ["score"])


def run_graph(path: Path, inputs: dict[str, np.ndarray]) -> list[Any]:
    """Return every output of a graph.

    Raises:
        MissingError: no such file.
        DamagedError: onnxruntime cannot read it, or its inputs differ.
    """
    session = open_session(path)
    if (names := [one.name for one in session.get_inputs()]) != list(inputs):
        raise DamagedError(f"{path}: takes {', '.join(names)}, expected {', '.join(inputs)}. Export it again.")
    outputs: list[Any] = session.run(None, inputs)
    return outputs
