"""Features of classes of which there are no photos, drawn from a published classifier read as one of LDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RIDGE = 0.03
"""Of the map to another view, in shares of the features' mean variance; and added to covariances before their root."""


@dataclass(frozen=True)
class ViewMap:
    """Maps features of photos to those of the same photos in another view: x ↦ x S + o + ε, ε of covariance R Rᵀ."""

    slope: Float[np.ndarray, "f f"]
    offset: Float[np.ndarray, " f"]
    root: Float[np.ndarray, "f f"]
    """Of what features of the view keep to themselves."""


@dataclass(frozen=True)
class PseudoFeatures:
    """Class means with the spread of real photos around them, plain and as each of some views would look."""

    means: Float[np.ndarray, "c f"]
    root: Float[np.ndarray, "f f"]
    """A with A Aᵀ the covariance within classes."""
    maps: dict[str, ViewMap]

    def draw(self, classes: Sequence[int], rng: np.random.Generator) -> tuple[Float[np.ndarray, "b f"], list[str]]:
        """Return a feature vector for each class number and the view it is of; every view is as frequent as `plain`."""
        noise = rng.standard_normal((2, len(classes), self.means.shape[1])).astype(np.float32)
        rows = self.means[list(classes)] + noise[0] @ self.root.T
        names = [*self.maps, "plain"]
        views = [names[int(share * len(names))] for share in rng.random(len(classes))]
        for name, mapping in self.maps.items():
            own = np.array([view == name for view in views])
            rows[own] = rows[own] @ mapping.slope + mapping.offset + noise[1][own] @ mapping.root.T
        return rows, views


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


def pseudo_features(fit: LdaFit, views: Mapping[str, Float[np.ndarray, "n f"]]) -> PseudoFeatures:
    """Return what draws from the fitted classes, with a map from plain photos to each other view of them."""
    maps = {name: fit_view_map(views["plain"], rows) for name, rows in views.items() if name != "plain"}
    return PseudoFeatures(fit.means.astype(np.float32), _root(fit.covariance).astype(np.float32), maps)


def fit_view_map(plain: Float[np.ndarray, "n f"], other: Float[np.ndarray, "n f"]) -> ViewMap:
    """Fit the map from photos' features to those of another view of the same photos, by ridge regression."""
    before, after = plain.mean(axis=0), other.mean(axis=0)
    x, y = (plain - before).astype(np.float64), (other - after).astype(np.float64)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    slope = np.linalg.solve(gram, x.T @ y)
    rest = y - x @ slope
    arrays = (slope, after - before @ slope, _root(rest.T @ rest / len(rest)))
    return ViewMap(*(array.astype(np.float32) for array in arrays))


def _root(covariance: Float[np.ndarray, "f f"]) -> Float[np.ndarray, "f f"]:
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return root
