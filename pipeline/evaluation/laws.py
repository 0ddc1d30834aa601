"""Normality and likelihood of both models, as metrics and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.inputs import MetricParams, MetricsAndTables, SplitEmbeddings, Tables
from pipeline.evaluation.metrics.geometry import auc, spearman
from pipeline.evaluation.metrics.likelihood import Gaussian, fit_gaussian, radial_fit, radius_quantiles
from pipeline.evaluation.metrics.normality import gaussian_null, normality_summary
from pipeline.evaluation.scoring_rules import ReferenceSpaces
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.norms import normalize_rows

EXTREMES = 6
"""The most and as many of the least likely that are shown."""


def normality_scores(
    val: SplitEmbeddings, moments: CoMoments, spaces: ReferenceSpaces, params: MetricParams
) -> MetricsAndTables:
    """Test whitened rows of the held-out split, and Gaussian rows put through the same transform."""
    space = spaces["whitened"]
    null = gaussian_null(moments.image.covariance, space.image.forward, len(val.teacher), params.seed)
    rows = {"teacher": space.to_target(val.teacher), "student": space.to_target(val.student), "gaussian": null}
    if val.captioned and space.text:
        rows["texts"] = space.to_target(val.store.text().load(), "text")
    return {"val": {who: normality_summary(each, params.seed, params.group) for who, each in rows.items()}}, {}


def likelihood_scores(
    val: SplitEmbeddings, labelled: Sequence[SplitEmbeddings], moments: CoMoments, params: MetricParams
) -> MetricsAndTables:
    """Say how likely held-out images and captions are, and whether other sets are told apart by it."""
    image = fit_gaussian(moments.image, params.floor)

    def likelihood(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        return image.log_likelihood(normalize_rows(rows, moments.pre_norm))

    rows, likely, said = normalize_rows(val.teacher, moments.pre_norm), likelihood(val.teacher), likelihood(val.student)
    metrics: dict[str, Any] = {
        "images": {**radial_fit(image, rows), "mean": float(likely.mean())},
        "student": {"mean": float(said.mean()), "spearman": spearman(said, likely)},
        "auroc": {seen.name: auc(likelihood(seen.teacher), likely) for seen in labelled},
    }
    extremes = _extremes("image", val.store.keys, likely)
    tables: Tables = {"val-radius": _radii(image, rows)}
    if val.captioned and moments.text is not None:
        text = fit_gaussian(moments.text, params.floor)
        captions = normalize_rows(val.store.text().load(), moments.pre_norm)
        likely = text.log_likelihood(captions)
        metrics["texts"] = {**radial_fit(text, captions), "mean": float(likely.mean())}
        extremes += _extremes("text", _caption_names(val), likely)
        tables["val-radius-texts"] = _radii(text, captions)
    return {"val": metrics}, {
        **tables,
        "val-likelihood": CsvTable(("kind", "key", "caption", "log_likelihood"), extremes),
    }


def _extremes(kind: str, names: Sequence[str], likely: Float[np.ndarray, " n"]) -> list[tuple[Any, ...]]:
    """Return the most and the least likely, most likely first; a caption's name is `key#number`."""
    order = np.argsort(-likely, kind="stable")
    chosen = order if len(order) <= 2 * EXTREMES else np.concatenate([order[:EXTREMES], order[-EXTREMES:]])
    split = [(*names[i].partition("#")[::2], float(likely[i])) for i in chosen]
    return [(kind, key, number, value) for key, number, value in split]


def _caption_names(val: SplitEmbeddings) -> list[str]:
    counts = np.diff(val.store.offsets)
    return [f"{key}#{number}" for key, count in zip(val.store.keys, counts, strict=True) for number in range(count)]


def _radii(gaussian: Gaussian, rows: Float[np.ndarray, "n d"]) -> CsvTable:
    return CsvTable(
        ("probability", "observed", "expected"), [tuple(map(float, row)) for row in radius_quantiles(gaussian, rows)]
    )
