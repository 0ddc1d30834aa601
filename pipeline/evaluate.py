"""Say what a student is worth: each rule, each set, beside its teacher under the same rule and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cache.atomic import write_json
from cache.errors import StaleError
from cache.reader import EmbeddingStore
from pipeline.data.samples import open_packed
from pipeline.evaluation.labelled import leakage_scores, probe_scores
from pipeline.evaluation.laws import likelihood_scores, normality_scores
from pipeline.evaluation.rules import Rule, available, reference_spaces
from pipeline.evaluation.scores import agreement_scores, retrieval_scores, zero_shot_scores
from pipeline.evaluation.seen import MeasureParams, Seen
from pipeline.evaluation.shape import shape_scores
from pipeline.evaluation.tables import rounded, write_tables
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.runtime import Runtime
from pipeline.whitening.moments_file import load_moments


class EvaluateParams(MeasureParams):
    """The `evaluate:` section."""

    rules: tuple[Rule, ...] = Field(default=("clip", "whitened"), min_length=1)
    """How images and texts are compared; `clip` is CLIP's own."""


def evaluate(folder: Path, sets: Sequence[str], params: EvaluateParams, layout: Layout, runtime: Runtime) -> Path:
    """Score the student of a folder on val and on zero-shot sets; write metrics.json and tables/ beside it.

    Raises:
        CacheError: the student, a split or the moments are missing, damaged or of different inputs.
        PipelineError: the student's embeddings are not finite.
    """
    card, (val, *labelled) = _see(folder, ["val", *sets], layout, runtime)
    measured = load_moments(layout.moments)
    moments = measured.by_pre_norm.get("l2") or next(iter(measured.by_pre_norm.values()))
    spaces = reference_spaces(moments, params.floor)
    rules = available(params.rules, moments)
    parts = {
        "zero_shot": zero_shot_scores(labelled, rules, spaces),
        "agreement": agreement_scores(val, moments, spaces, params),
        "probes": (probe_scores(labelled, params), {}),
        "geometry": shape_scores(val, rules, spaces, params),
        "normality": normality_scores(val, moments, spaces, params),
        "likelihood": likelihood_scores(val, labelled, moments, params),
        "leakage": leakage_scores([val, *labelled], layout, params),
    }
    if val.captioned:
        parts["retrieval"] = {"val": retrieval_scores(val, rules, spaces)}, {}
    metrics = {name: card[name] for name in ("student", "target")} | {name: found for name, (found, _) in parts.items()}
    write_tables(folder / "tables", {name: table for _, tables in parts.values() for name, table in tables.items()})
    write_json(folder / "metrics.json", rounded(metrics))
    return folder / "metrics.json"


def _see(folder: Path, splits: Sequence[str], layout: Layout, runtime: Runtime) -> tuple[dict[str, Any], list[Seen]]:
    """Return the student's card, and what it says of the very views that its teacher saw."""
    import torch

    from pipeline.students.checkpoint import load_student
    from pipeline.students.pixels import pixel_store
    from pipeline.students.predict import embed_pixels

    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    student = load_student(folder, automatic if runtime.device == "auto" else runtime.device)
    card: dict[str, Any] = dict(student.card)
    seen = []
    for name in splits:
        store = EmbeddingStore.open(layout.embeddings(name), runtime.verify)
        _check_teacher(folder, card, store)
        view = store.manifest.parts["image/view-00"].facts["view"]
        pixels = pixel_store(open_packed(layout.packed(name)), card["image_size"], [view], layout, runtime)
        if list(pixels.keys) != store.keys:
            raise StaleError(f"{store.folder}: not the images of {layout.packed(name)}. Run `dvc repro embed`.")
        boxes, flips = store.boxes(0), store.flips(0)
        said = [
            embed_pixels(student, pixels.batch(at, boxes[at], flips[at], card["image_size"]), runtime.batch)
            for at in _batches(len(boxes), runtime.batch)
        ]
        seen.append(Seen(name, store, _finite(folder, np.concatenate(said)), store.image(0).load()))
    return card, seen


def _batches(rows: int, batch: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + batch, rows)) for start in range(0, rows, batch)]


def _finite(folder: Path, rows: np.ndarray) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise PipelineError(f"{folder}: the student answers NaN. Distil it again with a lower learning rate.")
    return rows


def _check_teacher(folder: Path, card: Mapping[str, Any], store: EmbeddingStore) -> None:
    if card["teacher"] != store.manifest.teacher:
        raise StaleError(
            f"{folder}: distilled from {card['teacher'].get('model')}, but {store.folder} was embedded by "
            f"{store.manifest.teacher.get('model')} (or by other weights of it). Run `dvc repro`."
        )
