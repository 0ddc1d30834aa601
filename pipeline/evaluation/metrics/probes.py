"""Accuracy on labelled sets without text: k nearest neighbors and a linear probe.

Even-indexed images of each class train the probe, odd-indexed ones test it. A regularized probe depends on the scale of
the features, so they are standardized; an unregularized one is invariant to invertible transforms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cache.normalization import l2_normalize
from pipeline.evaluation.metrics.calibration import calibration_error
from pipeline.evaluation.metrics.retrieval import nearest_neighbors
from pipeline.evaluation.scoring_rules import image_vectors, prompt_vectors

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables

TEMPERATURE = 0.07
"""Temperature of the neighbors' votes (Wu et al., 2018)."""
INVERSE_PENALTIES = (0.01, 0.1, 1.0)
WORD_PENALTY = 100.0
"""Inverse regularization of the fitted class vectors; unit rows are small, so a value of 1 would underfit."""


def knn_accuracy(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], k: int = 20) -> float:
    """Return the accuracy of k nearest neighbors by cosine, votes weighted by exp(cos/0.07)."""
    vectors, taught = l2_normalize(rows), index_within_class(labels) % 2 == 0
    scores, neighbors = nearest_neighbors(vectors[~taught], vectors[taught], k)
    votes = np.zeros((len(scores), int(labels.max()) + 1))
    voters = np.repeat(np.arange(len(scores)), scores.shape[1])
    np.add.at(
        votes, (voters, labels[taught][neighbors].ravel()), np.exp(scores.ravel().astype(np.float64) / TEMPERATURE)
    )
    return float(np.mean(votes.argmax(axis=1) == labels[~taught]))


def linear_accuracy(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the accuracy of logistic regression; its regularization is selected on a quarter of the training rows."""
    from sklearn.linear_model import LogisticRegression

    turn = index_within_class(labels)
    teaching = turn % 2 == 0
    taught = rows[teaching].astype(np.float64)
    center, scale = taught.mean(axis=0), np.maximum(taught.std(axis=0), np.finfo(np.float32).eps)
    features = (rows - center) / scale

    def fitted(penalty: float, where: Bool[np.ndarray, " n"]) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=1000, tol=1e-3).fit(features[where], labels[where])

    held_out = teaching & (turn % 8 == 6)
    scores = [
        fitted(penalty, teaching & ~held_out).score(features[held_out], labels[held_out]) if held_out.any() else 0.0
        for penalty in INVERSE_PENALTIES
    ]
    best = fitted(INVERSE_PENALTIES[int(np.argmax(scores))], teaching)
    return float(best.score(features[~teaching], labels[~teaching]))


def probe_accuracies(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Return the accuracy of each probe; of none for a single class, or if no class has a second image to test."""
    counts = np.bincount(labels)
    if np.count_nonzero(counts) < 2 or counts.max() < 2:
        return {}
    return {"knn": knn_accuracy(rows, labels), "linear": linear_accuracy(rows, labels)}


def fit_linear_words(
    rows: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "c k"]:
    """Fit one unit vector per class to unit rows: the directions of logistic regression without intercepts.

    They replace class prompts for a teacher without text tower; a class without rows has zeros.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=WORD_PENALTY, fit_intercept=False, max_iter=1000, tol=1e-3).fit(rows, labels)
    words = np.zeros((classes, rows.shape[1]), np.float32)
    two = len(fitted.classes_) == 2  # with two classes, one vector is returned for both
    words[fitted.classes_] = np.concatenate([-fitted.coef_, fitted.coef_]) if two else fitted.coef_
    return l2_normalize(words)


def index_within_class(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return the index of each image within its class, from 0."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    turn = np.empty(len(labels), np.int64)
    turn[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turn


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Return probe accuracies of each labelled set, and calibration errors at the teacher's logit scale.

    Without class prompts (a teacher without text tower) there are no calibration errors.
    """
    metrics: dict[str, Any] = {}
    for split in inputs.labeled:
        sample = split.subsample(inputs.params.max_images)
        labels, reads = np.asarray(split.store.labels)[sample], split.store.has_prompts
        classes = prompt_vectors("clip", split.store.prompts(), {}) if reads else None
        scale = float(split.store.manifest.teacher.get("logit_scale", 100.0))
        metrics[split.name] = {"n": len(sample)}
        for model, rows in (("student", split.student[sample]), ("teacher", split.teacher[sample])):
            metrics[split.name][model] = probe_accuracies(rows, labels)
            if classes is not None:
                error = calibration_error(image_vectors("clip", rows, {}), classes, labels, scale)
                metrics[split.name][model]["calibration_error"] = error
    return metrics, {}
