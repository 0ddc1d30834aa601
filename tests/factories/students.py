"""A training set small enough for tests: noise whose targets are a fixed linear map of its 4 × 4 means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.students.inputs.loader import BatchLoader
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import LossParams
from pipeline.students.losses.scaling import build_objective
from pipeline.students.model import Student, StudentParams
from pipeline.students.training.loop import ResumeConfig, train
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.validation import HistoryRow

ROWS, DIM, SIZE = 48, 6, 16
START, END = 49406, 49407
TEXT = {"layers": 1, "width": 16, "heads": 2, "context": 8}
"""A text tower as small as they come; its embeddings of 49,408 words still are most of it."""
TINY = "test_resnet"
"""timm's own model for tests: half a million parameters, batch norm and all."""


@dataclass(frozen=True)
class MadePixels:
    """Pixels in memory, as the pixel store serves them."""

    images: np.ndarray

    def batch(self, rows: np.ndarray, boxes: np.ndarray, flips: np.ndarray, size: int) -> np.ndarray:
        assert size == self.images.shape[1]
        assert boxes.shape == (len(rows), 4)
        pixels = self.images[rows]
        pixels[flips] = pixels[flips, :, ::-1]
        return pixels


def made_pixels(rows: int = ROWS, seed: int = 0) -> MadePixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8)
    return MadePixels(coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2))


def made_tokens(rows: int, length: int = 8, seed: int = 3) -> np.ndarray:
    """Token ids of texts of two to six words, as CLIP's tokenizer lays them out: start, words, end, zeros."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((rows, length), np.int32)
    for row, words in zip(tokens, rng.integers(2, length - 1, rows), strict=True):
        row[: words + 2] = [START, *rng.integers(0, START, words), END]
    return tokens


def made_targets(
    pixels: MadePixels, views: int = 1, captions: int = 0, scale: float = 1.0, tokens: bool = False
) -> Targets:
    """Views differ by a constant, so that a target says which view it is of."""
    rows = len(pixels.images)
    means = pixels.images[:, ::4, ::4].reshape(rows, -1) / 255 - 0.5
    image = scale * means @ np.random.default_rng(1).standard_normal((means.shape[1], DIM))
    shifts = np.arange(views)[:, None, None]
    text = (image[:, None] + 0.1 * np.random.default_rng(2).standard_normal((rows, captions, DIM))).reshape(-1, DIM)
    return Targets(
        image=(image + shifts).astype(np.float32),
        boxes=np.tile(np.array([0, 0, 1, 1], np.float32), (views, rows, 1)) * (1 - 0.01 * shifts.astype(np.float32)),
        flips=np.broadcast_to(shifts[:, :, 0] % 2 == 1, (views, rows)).copy(),
        text=text.astype(np.float32) if captions else None,
        offsets=np.arange(rows + 1) * captions if captions else None,
        tokens=made_tokens(rows * captions) if tokens else None,
    )


def made_feed(
    views: int = 1, captions: int = 0, scale: float = 1.0, tokens: bool = False, **changes: Any
) -> BatchLoader:
    pixels = made_pixels()
    targets = made_targets(pixels, views, captions, scale, tokens)
    return BatchLoader(
        **{
            "pixels": pixels,
            "targets": targets,
            "batch": 16,
            "size": SIZE,
            "seed": 0,
            "device": torch.device("cpu"),
            **changes,
        }
    )


def made_student(name: str = TINY, **params: Any) -> Student:
    torch.manual_seed(0)
    return Student(name, StudentParams.model_validate(params), DIM)


def trained(
    state: Path,
    *,
    feed: BatchLoader | None = None,
    student: Student | None = None,
    loss: dict[str, Any] | None = None,
    every_seconds: float = 1e9,
    look: Any = None,
    **training: Any,
) -> tuple[Student, list[HistoryRow]]:
    """Train a made student for a few steps."""
    params = TrainingParams(**{"epochs": 2, "batch": 16, "image_size": SIZE, "num_validations": 2, **training})
    losses = LossParams.model_validate(loss or {"fd": 1.0})
    feed = feed or made_feed(captions=2 if losses.needs_captions else 0, bank_size=losses.bank_size)
    return train(
        student or made_student(),
        build_objective(losses, feed.targets),
        feed,
        look=look or (lambda _: {"val_nmse": 1.0}),
        params=params,
        resume=ResumeConfig(state, every_seconds),
    )
