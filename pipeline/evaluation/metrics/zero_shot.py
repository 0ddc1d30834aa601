"""Zero-shot classification: the class whose prompt scores highest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class ZeroShotPredictions:
    """What a model said of labelled images, one class each."""

    labels: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    classes: int

    @property
    def accuracy(self) -> float:
        """Share of images whose highest class is theirs."""
        return float(np.mean(self.predicted == self.labels))

    @property
    def standard_error(self) -> float:
        """Binomial standard error √(p(1 − p)/n) of the accuracy."""
        p = self.accuracy
        return float(np.sqrt(p * (1 - p) / len(self.labels)))

    @property
    def confusion(self) -> Int[np.ndarray, "c c"]:
        """Counts, true class down, predicted class across."""
        flat = np.bincount(self.labels * self.classes + self.predicted, minlength=self.classes**2)
        return flat.reshape(self.classes, self.classes)

    @property
    def per_class(self) -> Float[np.ndarray, " c"]:
        """Accuracy within each true class; NaN where a class has no image."""
        counts = np.bincount(self.labels, minlength=self.classes)
        share: Float[np.ndarray, " c"] = np.diagonal(self.confusion) / np.maximum(counts, 1)
        return np.where(counts > 0, share, np.nan)

    @property
    def prediction_entropy(self) -> float:
        """Entropy of the predicted classes over ln c: 1 when all are used alike, 0 when one takes all."""
        share = np.bincount(self.predicted, minlength=self.classes) / len(self.predicted)
        used = share[share > 0]
        return float(-np.sum(used * np.log(used)) / np.log(self.classes)) if self.classes > 1 else 0.0


def classify(
    image: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], labels: Int[np.ndarray, " n"]
) -> ZeroShotPredictions:
    """Give each unit image vector the class whose unit vector has the largest dot product; ties take the first."""
    return ZeroShotPredictions(labels, np.argmax(image @ classes.T, axis=1), len(classes))


def calibration_error(
    image: Float[np.ndarray, "n d"],
    classes: Float[np.ndarray, "c d"],
    labels: Int[np.ndarray, " n"],
    scale: float,
    bins: int = 15,
) -> float:
    """Return the expected calibration error: mean gap of confidence and accuracy over equal bins of confidence.

    ECE = Σ_b (n_b/n) |accuracy_b − confidence_b|, confidence = max softmax(scale · scores)
    (Guo et al., 2017, with fifteen bins). `scale` is the softmax's own: whitened scores need another
    than CLIP's.
    """
    logits = scale * (image @ classes.T).astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = weights.max(axis=1) / weights.sum(axis=1)
    right = np.argmax(logits, axis=1) == labels
    chosen = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(chosen, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
