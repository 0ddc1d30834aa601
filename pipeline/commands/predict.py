"""Predict the most probable labels of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.normalization import l2_normalize
from pipeline.data.user_images import load_center_view, small_copy
from pipeline.deployment.labels import (
    DEFAULT_TEMPLATE,
    Labels,
    known_labels,
    resolve_labels,
    save_labels,
    saved_labels_path,
    split_names,
)
from pipeline.deployment.predictor import Predictor
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.terminal import printable
from pipeline.reporting.page import LabeledImage, LabeledImages, ReportSection, data_uri, render
from pipeline.reporting.page_files import save_page
from pipeline.teacher.params import TeacherParams

BATCH = 64
SIDE = 240
"""Side of a picture on the page, in pixels."""


@dataclass(frozen=True)
class Prediction:
    """A picture and its most probable labels, best first."""

    path: Path
    labels: tuple[tuple[str, float], ...]

    @property
    def line(self) -> str:
        """Return one line for the terminal."""
        return printable(f"{self.path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in self.labels))


def predict(model: Predictor, paths: Sequence[Path], labels: Labels, top: int = 5) -> list[Prediction]:
    """Return the most probable labels of each picture.

    Raises:
        PipelineError: a picture cannot be read.
        UsageError: labels and model have different dimensions.
    """
    predictions: list[Prediction] = []
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        embedding = model.embed(np.stack([load_center_view(path, model.size) for path in part]))
        if embedding.shape[1] != labels.vectors.shape[1]:
            raise UsageError(
                f"{model.name}: speaks {embedding.shape[1]} dimensions, the labels {labels.vectors.shape[1]}: they are "
                "of two teachers"
            )
        probabilities = labels.probabilities(embedding)
        predictions += [
            Prediction(path, _best(row, labels, top)) for path, row in zip(part, probabilities, strict=True)
        ]
    return predictions


def labels_for(
    request: str, zero_shot: Sequence[str], layout: Layout, model: Predictor, teacher: TeacherParams | None
) -> Labels:
    """Return label vectors from the cache, the student's text tower, or the teacher, whose results are cached.

    Raises:
        UsageError: a label was never embedded and no text tower is available, or the teacher is not the model's.
    """
    if teacher is not None and request not in zero_shot:
        available = known_labels(zero_shot, layout, model.teacher)
        if missing := [name for name in split_names(request) if name not in available.vectors]:
            _embed_and_keep(missing, teacher, layout, model)
    return resolve_labels(request, zero_shot, layout, model)


def _embed_and_keep(names: Sequence[str], params: TeacherParams, layout: Layout, model: Predictor) -> None:
    from pipeline.teacher.model import load_teacher  # imported only on request

    teacher = load_teacher(params, "cpu")
    facts = teacher.identity.facts()
    if model.teacher is not None and facts != model.teacher:
        raise UsageError(
            f"--teacher: {facts['model']} {facts['weights_sha256'][:12]}, but {model.name} learnt from "
            f"{model.teacher.get('model')} {str(model.teacher.get('weights_sha256'))[:12]}: its labels would "
            "mean nothing"
        )
    rows = teacher.embed_tokens(teacher.tokenize([DEFAULT_TEMPLATE.format(c=name) for name in names]))
    save_labels(
        saved_labels_path(layout, facts), Labels(tuple(names), l2_normalize(rows), teacher.identity.logit_scale)
    )


def as_json(predictions: Sequence[Prediction]) -> str:
    """Return predictions as JSON, one object per picture."""
    records = [
        {"path": str(p.path), "labels": [{"label": name, "probability": round(x, 6)} for name, x in p.labels]}
        for p in predictions
    ]
    return json.dumps(records, indent=1, ensure_ascii=False)


def write_page(path: Path, model: str, predictions: Sequence[Prediction]) -> None:
    """Write the pictures with their labels as one self-contained page."""
    images = tuple(
        LabeledImage(data_uri(small_copy(p.path, SIDE), "image/webp"), str(p.path), p.labels) for p in predictions
    )
    answer = f"{len(predictions)} pictures through {model}"
    save_page(path, render(answer, "", [], [ReportSection("Pictures", [LabeledImages(images)])]))


def _best(row: np.ndarray, labels: Labels, top: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-row, kind="stable")[:top]
    return tuple((labels.names[i], float(row[i])) for i in order)
