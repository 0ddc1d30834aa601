"""Normality and likelihood of both models, as metrics and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.geometry import auc, spearman
from pipeline.evaluation.likelihood import Gaussian, fitted, radial_law, radii
from pipeline.evaluation.normality import gaussian_rows, summary
from pipeline.evaluation.rules import ReferenceSpaces
from pipeline.evaluation.seen import MeasureParams, Scores, Seen, Tables
from pipeline.evaluation.tables import Table
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.norms import normalised

EXTREMES = 6
"""The most and as many of the least likely that are shown."""


def normality_scores(val: Seen, moments: CoMoments, spaces: ReferenceSpaces, params: MeasureParams) -> Scores:
    """Test whitened rows of the held-out split, and Gaussian rows put through the same transform."""
    space = spaces["whitened"]
    null = gaussian_rows(moments.image.covariance, space.image.forward, len(val.teacher), params.seed)
    rows = {"teacher": space.to_target(val.teacher), "student": space.to_target(val.student), "gaussian": null}
    if val.captioned and space.text:
        rows["texts"] = space.to_target(val.store.text().load(), "text")
    return {"val": {who: summary(each, params.seed, params.group) for who, each in rows.items()}}, {}


def likelihood_scores(val: Seen, labelled: Sequence[Seen], moments: CoMoments, params: MeasureParams) -> Scores:
    """Say how likely held-out images and captions are, and whether other sets are told apart by it."""
    image = fitted(moments.image, params.floor)

    def likelihood(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        return image.log_likelihood(normalised(rows, moments.pre_norm))

    rows, likely, said = normalised(val.teacher, moments.pre_norm), likelihood(val.teacher), likelihood(val.student)
    metrics: dict[str, Any] = {
        "images": {**radial_law(image, rows), "mean": float(likely.mean())},
        "student": {"mean": float(said.mean()), "spearman": spearman(said, likely)},
        "auroc": {seen.name: auc(likelihood(seen.teacher), likely) for seen in labelled},
    }
    extremes = _extremes("image", val.store.keys, likely)
    tables: Tables = {"val-radius": _radii(image, rows)}
    if val.captioned and moments.text is not None:
        text = fitted(moments.text, params.floor)
        captions = normalised(val.store.text().load(), moments.pre_norm)
        likely = text.log_likelihood(captions)
        metrics["texts"] = {**radial_law(text, captions), "mean": float(likely.mean())}
        extremes += _extremes("text", _caption_names(val), likely)
        tables["val-radius-texts"] = _radii(text, captions)
    return {"val": metrics}, {**tables, "val-likelihood": Table(("kind", "key", "caption", "log_likelihood"), extremes)}


def _extremes(kind: str, names: Sequence[str], likely: Float[np.ndarray, " n"]) -> list[tuple[Any, ...]]:
    """Return the most and the least likely, most likely first; a caption's name is `key#number`."""
    order = np.argsort(-likely, kind="stable")
    chosen = order if len(order) <= 2 * EXTREMES else np.concatenate([order[:EXTREMES], order[-EXTREMES:]])
    split = [(*names[i].partition("#")[::2], float(likely[i])) for i in chosen]
    return [(kind, key, number, value) for key, number, value in split]


def _caption_names(val: Seen) -> list[str]:
    counts = np.diff(val.store.offsets)
    return [f"{key}#{number}" for key, count in zip(val.store.keys, counts, strict=True) for number in range(count)]


def _radii(gaussian: Gaussian, rows: Float[np.ndarray, "n d"]) -> Table:
    return Table(("probability", "observed", "expected"), [tuple(map(float, row)) for row in radii(gaussian, rows)])
