"""Tokens and scorer as ONNX graphs say what the student and the scorer say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import DamagedError
from pipeline.deployment.relation_graphs import run_graph, write_scorer_graph, write_token_graph
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import ImageTokens, TextTokens, build_scorer
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import embed_pixels
from pipeline.students.model import Student, StudentParams


def test_the_graph_of_tokens_gives_embedding_and_tokens_of_any_number_of_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = Student("resnet-tiny", StudentParams(), 24).eval()
    write_token_graph(tmp_path / "tokens.onnx", student, 64, 8)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    embedding, tokens = run_graph(tmp_path / "tokens.onnx", {"image": pixels})
    np.testing.assert_allclose(embedding, embed_pixels(student, pixels), atol=1e-4)
    np.testing.assert_allclose(tokens, embed_places(student, pixels, 8), atol=1e-4)


@pytest.mark.parametrize("kind", ["dcsm", "dcsm-published", "late"])
def test_the_graph_of_a_scorer_gives_its_scores(tmp_path: Path, kind: str) -> None:
    scorer = build_scorer(ScorerParams(kind=kind, columns=5), 8, 16).eval()  # type: ignore[arg-type]
    write_scorer_graph(tmp_path / "scorer.onnx", scorer, 8, 16, 5)
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape), np.float32)

    rows = np.full((3, 5), -1, np.int64)
    rows[1, 2] = 4
    inputs = {
        "image": draw(3, 8),
        "patches": draw(3, 16, 8),
        "text": draw(3, 8),
        "words": draw(3, 5, 8),
        "valid": np.arange(5)[None] < np.array([[5], [4], [3]]),
        "functional_row": rows,
    }
    (scores,) = run_graph(tmp_path / "scorer.onnx", inputs)
    image, patches, text, words, valid, marked = (torch.from_numpy(array) for array in inputs.values())
    with torch.inference_mode():
        expected = scorer(ImageTokens(image, patches), TextTokens(text, words, valid, marked))
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
    # The control: a functional row that moves changes the score of a scorer that reads it.
    moved = {**inputs, "functional_row": np.roll(rows, 1, axis=1)}
    assert np.array_equal(run_graph(tmp_path / "scorer.onnx", moved)[0], scores) == (kind == "late")


def test_a_graph_of_other_inputs_is_refused(tmp_path: Path) -> None:
    write_scorer_graph(tmp_path / "scorer.onnx", build_scorer(ScorerParams(kind="late"), 8, 16), 8, 16, 5)
    with pytest.raises(DamagedError, match="expected image"):
        run_graph(tmp_path / "scorer.onnx", {"image": np.zeros((1, 8, 8, 3), np.uint8)})
