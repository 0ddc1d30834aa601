"""Logit scale, and calibration error of softmax probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

LARGEST = 1000.0
"""Upper limit of the scale; at this scale a margin of 0.01 gives odds of e¹⁰."""


def fit_logit_scale(loss: Callable[[float], float], largest: float) -> float:
    """Return the scale 1/τ between 1 and `largest` that minimizes a cross-entropy of scaled scores.

    A cross-entropy is convex in its scale, so one bounded search finds the minimum; it runs on the logarithm, as in
    CLIP. CLIP's embeddings need about 80, centered or whitened ones 35; with the scale of another space, one compares
    temperatures and not geometries.
    """
    from scipy.optimize import minimize_scalar  # takes half a second to import

    minimum = minimize_scalar(lambda x: loss(math.exp(x)), bounds=(0.0, math.log(largest)), method="bounded")
    return math.exp(float(minimum.x))


def fit_pair_logit_scale(image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "n d"]) -> float:
    """Return the scale that minimizes the symmetric cross-entropy of pairs of unit rows."""
    scores = (image @ text.T).astype(np.float64)
    return fit_logit_scale(lambda scale: cross_entropy(scores, scale), LARGEST)


def cross_entropy(scores: Float[np.ndarray, "n n"], scale: float) -> float:
    """Return the symmetric cross-entropy of a matrix of scores with the correct pairs on its diagonal.

    CE(s) = ½ mean(lse(s·rows) + lse(s·columns)) − s·mean(diagonal).
    """
    from scipy.special import logsumexp

    both = logsumexp(scale * scores, axis=1) + logsumexp(scale * scores, axis=0)
    return float(both.mean() / 2 - scale * np.diagonal(scores).mean())


def calibration_error(
    image: Float[np.ndarray, "n d"],
    classes: Float[np.ndarray, "c d"],
    labels: Int[np.ndarray, " n"],
    scale: float,
    bins: int = 15,
) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy over equal-width bins.

    ECE = Σ_b (n_b/n) |accuracy_b − confidence_b|, confidence = max softmax(scale · scores)
    (Guo et al., 2017, with fifteen bins). `scale` belongs to the softmax: whitened scores need another scale than
    CLIP's.
    """
    logits = scale * (image @ classes.T).astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = weights.max(axis=1) / weights.sum(axis=1)
    right = np.argmax(logits, axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
