"""The geometry of both models in each space, as metrics and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.inputs import MetricParams, MetricsAndTables, SplitEmbeddings, Tables, subsample_rows
from pipeline.evaluation.metrics.effective_rank import partition_ratio, row_spectra
from pipeline.evaluation.metrics.geometry import conformity, cross_modal, norm_statistics, spearman, unimodal
from pipeline.evaluation.metrics.projections import pca, tsne
from pipeline.evaluation.scoring_rules import ReferenceSpaces, l2_normalize, score_vectors

CONTROL = "centered"
"""Every gap is read beside the same measure with each modality's training mean taken away."""


def geometry_scores(
    val: SplitEmbeddings, rules: Sequence[str], spaces: ReferenceSpaces, params: MetricParams
) -> MetricsAndTables:
    """Measure images with their first captions under each rule, and how many directions images use."""
    rows = subsample_rows(len(val.teacher), params.sample)
    models = {"student": val.student[rows], "teacher": val.teacher[rows]}
    metrics: dict[str, Any] = {"n": len(rows)}
    metrics["images"] = {who: _images(images, models["teacher"]) for who, images in models.items()}
    tables: Tables = {"val-collapse": _collapse(models)}
    if val.captioned:
        at, text = val.pairs(params.sample)
        paired = {"student": val.student[at], "teacher": val.teacher[at]}
        metrics["pairs"] = {rule: _pairs(rule, paired, text, spaces) for rule in {*rules, "clip", CONTROL}}
        metrics["texts"] = {
            **unimodal(l2_normalize(text)),
            **row_spectra(l2_normalize(text)).summary(),
            **norm_statistics(text),
        }
        if params.map:
            tables["val-map"] = _maps(val, params)
    return {"val": metrics}, tables


def _images(rows: Float[np.ndarray, "n d"], teacher: Float[np.ndarray, "n d"]) -> dict[str, float]:
    vectors = l2_normalize(rows)
    return {
        **unimodal(vectors),
        **row_spectra(vectors).summary(),
        **norm_statistics(rows),
        "partition_ratio": partition_ratio(vectors),
        "conformity_spearman": spearman(conformity(vectors), conformity(l2_normalize(teacher))),
    }


def _pairs(
    rule: str, models: Mapping[str, Float[np.ndarray, "n d"]], text: Float[np.ndarray, "n d"], spaces: ReferenceSpaces
) -> dict[str, dict[str, float]]:
    return {who: cross_modal(*score_vectors(rule, images, text, spaces)) for who, images in models.items()}


def _collapse(models: Mapping[str, Float[np.ndarray, "n d"]]) -> CsvTable:
    """Return both spectra, each by its own trace: a student that lost directions falls off a cliff."""
    values = {who: row_spectra(l2_normalize(rows)).eigenvalues for who, rows in models.items()}
    shares = [values[who] / values[who].sum() for who in ("student", "teacher")]
    rows = [(i + 1, float(a), float(b)) for i, (a, b) in enumerate(zip(*shares, strict=True))]
    return CsvTable(("axis", "student", "teacher"), rows)


def _maps(val: SplitEmbeddings, params: MetricParams) -> CsvTable:
    """Return flat coordinates of the same pairs by student and teacher, images and texts together."""
    at, text = val.pairs(params.map)
    rows: list[tuple[Any, ...]] = []
    for who, images in (("student", val.student[at]), ("teacher", val.teacher[at])):
        joint = np.concatenate([l2_normalize(images), l2_normalize(text)])
        flat = np.concatenate([pca(joint), tsne(joint, params.seed)], axis=1)
        names = [(kind, val.store.keys[row]) for kind in ("image", "text") for row in at]
        rows += [(who, *name, *map(float, place)) for name, place in zip(names, flat, strict=True)]
    return CsvTable(("model", "kind", "key", "pca_x", "pca_y", "tsne_x", "tsne_y"), rows)
