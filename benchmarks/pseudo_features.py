"""Features of classes of which there are no photos, drawn from a published classifier read as one of LDA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RIDGE = 0.03
"""Of the map to small photos, in shares of the features' mean variance; and added to covariances before their root."""


@dataclass(frozen=True)
class PseudoFeatures:
    """Class means with the spread of real photos around them; half of the draws as photos of 32 px would look."""

    means: Float[np.ndarray, "c f"]
    root: Float[np.ndarray, "f f"]
    """A with A Aᵀ the covariance within classes."""
    small: Float[np.ndarray, "f f"]
    offset: Float[np.ndarray, " f"]
    small_root: Float[np.ndarray, "f f"]
    """Of what a photo's features at 32 px keep to themselves."""

    def draw(self, classes: Sequence[int], rng: np.random.Generator) -> Float[np.ndarray, "b f"]:
        """Return a feature vector for each class number."""
        noise = rng.standard_normal((2, len(classes), len(self.offset))).astype(np.float32)
        rows = self.means[list(classes)] + noise[0] @ self.root.T
        reduced = rng.random(len(classes)) < 0.5
        rows[reduced] = rows[reduced] @ self.small + self.offset + noise[1][reduced] @ self.small_root.T
        return rows


@dataclass(frozen=True)
class LdaFit:
    """What the inversion of a classifier found: class means, the covariance within classes, and how well it fits."""

    means: Float[np.ndarray, "c f"]
    covariance: Float[np.ndarray, "f f"]
    scale: float
    explained: float
    """Share of the known class means' variance that is explained."""


def invert_classifier(
    weight: Float[np.ndarray, "c f"], rows: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"]
) -> LdaFit:
    """Return the class means for which a linear classifier would be that of LDA.

    With the covariance Σ within classes, LDA's rows are w_c = Σ⁻¹(μ_c - μ), up to a constant: μ_c = m + s Σ(w_c - w̄).
    Σ is measured on the labelled rows; s and m by least squares over the classes that have rows.
    """
    classes, positions = np.unique(labels, return_inverse=True)
    known = np.stack([rows[positions == i].mean(axis=0) for i in range(len(classes))]).astype(np.float64)
    within = rows - known[positions]
    covariance = within.T @ within / (len(rows) - len(classes))
    directions = (weight - weight.mean(axis=0)) @ covariance
    x, y = (table - table.mean(axis=0) for table in (directions[classes], known))
    scale = float((x * y).sum() / (x**2).sum())
    means = directions * scale + known.mean(axis=0) - scale * directions[classes].mean(axis=0)
    explained = 1 - float(((y - scale * x) ** 2).sum() / (y**2).sum())
    return LdaFit(means, covariance, scale, explained)


def pseudo_features(fit: LdaFit, plain: Float[np.ndarray, "n f"], small: Float[np.ndarray, "n f"]) -> PseudoFeatures:
    """Return what draws from the fitted classes, with the map from photos to the same photos at 32 px by ridge."""
    before, after = plain.mean(axis=0), small.mean(axis=0)
    x, y = (plain - before).astype(np.float64), (small - after).astype(np.float64)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    slope = np.linalg.solve(gram, x.T @ y)
    rest = y - x @ slope
    arrays = (
        fit.means,
        _root(fit.covariance),
        slope,
        after - before @ slope,
        _root(rest.T @ rest / len(rest)),
    )
    return PseudoFeatures(*(array.astype(np.float32) for array in arrays))


def _root(covariance: Float[np.ndarray, "f f"]) -> Float[np.ndarray, "f f"]:
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return root
