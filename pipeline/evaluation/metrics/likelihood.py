"""Log-likelihood of embeddings under the Gaussian of their modality, and the distribution of whitened norms.

W-CLIP uses the whitened norm as a log-likelihood. Here the constant and the log-determinant are included, so that
values of different fits can be compared, and all rows are held out from the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.metrics.geometry import auc, spearman
from pipeline.whitening.comoments import Moments, is_well_sampled, normalize_rows

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables, SplitEmbeddings

EXTREMES = 6
"""Number of images and captions listed with the highest, and with the lowest, log-likelihood."""


@dataclass(frozen=True)
class Gaussian:
    """Gaussian on the axes above the floor: N(μ, V Λ Vᵀ) fitted to n rows."""

    mean: Float[np.ndarray, " d"]
    vectors: Float[np.ndarray, "d k"]
    values: Float[np.ndarray, " k"]
    rows: int

    @property
    def has_radial_law(self) -> bool:
        """Return whether norms of new rows follow Hotelling's distribution: enough rows, or no axis was cut."""
        k, d = len(self.values), len(self.mean)
        return self.rows > k + 2 and (k == d or is_well_sampled(self.rows, d))

    def squared_radius(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Return ‖y‖² = Σ ((x − μ)·v_k)²/λ_k."""
        along = (x.astype(np.float64) - self.mean) @ self.vectors
        radius: Float[np.ndarray, " n"] = np.sum(along**2 / self.values, axis=1)
        return radius

    def log_likelihood(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Return ln p(x) = −½(k ln 2π + ‖y‖²) − ½ Σ ln λ, the density of x, not of y."""
        constant = len(self.values) * np.log(2 * np.pi) + np.log(self.values).sum()
        log: Float[np.ndarray, " n"] = -0.5 * (constant + self.squared_radius(x))
        return log


def fit_gaussian(moments: Moments, floor: float) -> Gaussian:
    """Return the Gaussian with given moments on the axes above `floor` times the mean eigenvalue."""
    values, vectors = np.linalg.eigh(moments.covariance)
    mask = values > max(floor * values.mean(), np.finfo(np.float64).eps * values[-1])
    return Gaussian(moments.mean, vectors[:, mask][:, ::-1], values[mask][::-1], moments.count)


def radial_fit(gaussian: Gaussian, x: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Compare the norms of held-out rows with their distribution under normality.

    With the covariance estimated from n rows, ‖y‖² n(n − k)/((n² − 1)k) ~ F(k, n − k) (Hotelling), so
    E‖y‖²/k = (n − 1)(n + 1)/(n(n − k − 2)), which is above one also under normality. `ks` is the largest distance of
    the two distribution functions; `radius_sd` of a Gaussian is about √½; `mardia` is E‖y‖⁴/(k(k + 2)), one for a
    Gaussian with known covariance.

    The distribution is exact for each row if no axis was cut. A floor keeps the axes whose eigenvalues these n rows
    overestimate; with fewer than ten rows per dimension there is then no valid distribution, and `expected_over_k` and
    `ks` are omitted. All norms share one fit: with so few rows, `p` would reject truly Gaussian rows (a third of the
    time at two rows per dimension), and is omitted.
    """
    from scipy.stats import kstest

    k, n, square = len(gaussian.values), gaussian.rows, gaussian.squared_radius(x)
    statistics = {
        "axes": float(k),
        "mean_over_k": float(square.mean() / k),
        "radius_sd": float(np.sqrt(square).std()),
        "mardia": float(np.mean(square**2) / (k * (k + 2))),
    }
    if not gaussian.has_radial_law:
        return statistics
    statistic, p = kstest(square * n * (n - k) / ((n**2 - 1) * k), "f", args=(k, n - k))
    statistics |= {"expected_over_k": (n - 1) * (n + 1) / (n * (n - k - 2)), "ks": float(statistic)}
    return {**statistics, "p": float(p)} if is_well_sampled(n, len(gaussian.mean)) else statistics


def radius_quantiles(gaussian: Gaussian, x: Float[np.ndarray, "n d"], points: int = 99) -> Float[np.ndarray, "q 3"]:
    """Return (probability, observed radius, expected radius) at evenly spaced probabilities, a QQ plot."""
    from scipy.stats import f

    k, n = len(gaussian.values), gaussian.rows
    probability = np.arange(1, points + 1) / (points + 1)
    observed = np.quantile(np.sqrt(gaussian.squared_radius(x)), probability)
    if not gaussian.has_radial_law:
        return np.stack([probability, observed, np.full(points, np.nan)], axis=1)
    expected = np.sqrt(f.ppf(probability, k, n - k) * (n**2 - 1) * k / (n * (n - k)))
    return np.stack([probability, observed, expected], axis=1)


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score images and captions of val by log-likelihood, and the AUROC of detecting other sets with it."""
    val, moments, params = inputs.val, inputs.moments, inputs.params
    image = fit_gaussian(moments.image, params.floor)

    def log_likelihood(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        return image.log_likelihood(normalize_rows(rows, moments.pre_norm))

    rows = normalize_rows(val.teacher, moments.pre_norm)
    teacher, student = log_likelihood(val.teacher), log_likelihood(val.student)
    metrics: dict[str, Any] = {
        "images": {**radial_fit(image, rows), "mean": float(teacher.mean())},
        "student": {"mean": float(student.mean()), "spearman": spearman(student, teacher)},
        "auroc": {split.name: auc(log_likelihood(split.teacher), teacher) for split in inputs.labeled},
    }
    extremes = _extremes("image", val.store.keys, teacher)
    tables = {"val-radius": _radius_table(image, rows)}
    if val.has_whole_texts and moments.text is not None:
        text = fit_gaussian(moments.text, params.floor)
        captions = normalize_rows(val.store.text().load(), moments.pre_norm)
        of_captions = text.log_likelihood(captions)
        metrics["texts"] = {**radial_fit(text, captions), "mean": float(of_captions.mean())}
        extremes += _extremes("text", _caption_names(val), of_captions)
        tables["val-radius-texts"] = _radius_table(text, captions)
    tables["val-likelihood"] = CsvTable(("kind", "key", "caption", "log_likelihood"), extremes)
    return {"val": metrics}, tables


def _extremes(kind: str, names: Sequence[str], values: Float[np.ndarray, " n"]) -> list[tuple[Any, ...]]:
    """Return the most and the least likely rows, most likely first; a caption's name is `key#number`."""
    order = np.argsort(-values, kind="stable")
    rows = order if len(order) <= 2 * EXTREMES else np.concatenate([order[:EXTREMES], order[-EXTREMES:]])
    return [(kind, *names[i].partition("#")[::2], float(values[i])) for i in rows]


def _caption_names(val: SplitEmbeddings) -> list[str]:
    counts = np.diff(val.store.offsets)
    return [f"{key}#{number}" for key, count in zip(val.store.keys, counts, strict=True) for number in range(count)]


def _radius_table(gaussian: Gaussian, rows: Float[np.ndarray, "n d"]) -> CsvTable:
    return CsvTable(
        ("probability", "observed", "expected"), [tuple(map(float, row)) for row in radius_quantiles(gaussian, rows)]
    )
