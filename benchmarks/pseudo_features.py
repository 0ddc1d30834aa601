"""Features of classes of which there are no photos, drawn from a published classifier read as one of LDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

RIDGE = 0.03
"""Of the map to another view, in shares of the features' mean variance; and added to covariances before their root."""
PENALTY = 1.0
"""Of the ridge regression to class means, in shares of the rows' variance; chosen on classes left out of the fit."""
FOLDS = 5
EPSILON = float(np.finfo(np.float64).eps)


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
    """Share of the known class means' variance that is explained by fits to other classes (cross-validation)."""


def invert_classifier(
    weight: Float[np.ndarray, "c f"], rows: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"]
) -> LdaFit:
    """Return the class means for which a linear classifier would be that of LDA.

    The covariance Σ within classes is measured on the labelled rows; `predict_means` is fitted to the means x̄_c of the
    classes that have rows. These keep their own mean as far as it is known better than the prediction: with n_c rows,
    (n_c x̄_c + k μ_c) / (n_c + k), k = tr Σ / the mean squared error of predictions for classes left out of the fit.
    """
    classes, positions, counts = np.unique(labels, return_inverse=True, return_counts=True)
    known = np.stack([rows[positions == i].mean(axis=0) for i in range(len(classes))]).astype(np.float64)
    within = rows - known[positions]
    covariance = within.T @ within / (len(rows) - len(classes))
    means, scale = predict_means(weight, covariance, classes, known)
    squares = [
        (predict_means(weight, covariance, classes[fit], known[fit])[0][classes[left]] - known[left]) ** 2
        for fit, left in KFold(min(FOLDS, len(classes)), shuffle=True, random_state=0).split(classes)
    ]
    error = np.concatenate(squares).sum(axis=1).mean()
    prior = (np.trace(covariance) / error) if error > 0 else np.inf
    trust = (counts / (counts + prior))[:, None]
    means[classes] = trust * known + (1 - trust) * means[classes]
    explained = 1 - float(error / ((known - known.mean(axis=0)) ** 2).sum(axis=1).mean())
    return LdaFit(means, covariance, scale, explained)


def predict_means(
    weight: Float[np.ndarray, "c f"],
    covariance: Float[np.ndarray, "f f"],
    classes: Int[np.ndarray, " k"],
    known: Float[np.ndarray, "k f"],
) -> tuple[Float[np.ndarray, "c f"], float]:
    """Predict the means of all classes from a linear classifier and the means of some classes; return s too.

    With the covariance Σ within classes, LDA's rows are w_c = Σ⁻¹(μ_c − μ), up to a constant:
    μ_c = m + s Σ(w_c − w̄), s and m by least squares. No classifier that was trained is LDA's to the letter: what is
    left over is fitted by ridge regression on the whitened rows Σ^½(w_c − w̄).
    """
    centered = weight - weight.mean(axis=0)
    directions = centered @ covariance
    x, y = (table - table.mean(axis=0) for table in (directions[classes], known))
    scale = float((x * y).sum() / max((x**2).sum(), EPSILON))  # one class alone: 0
    means = directions * scale + known.mean(axis=0) - scale * directions[classes].mean(axis=0)
    whitened = centered @ _root(covariance)
    penalty = max(PENALTY * whitened[classes].var(axis=0).sum(), EPSILON)
    rest = Ridge(alpha=penalty).fit(whitened[classes], known - means[classes])
    return means + rest.predict(whitened), scale


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
