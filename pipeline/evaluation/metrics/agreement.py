"""Agreement of a student with its teacher: by row, by eigenvector, by nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from cache.normalization import l2_normalize
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.metrics.retrieval import nearest_neighbors

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables, SplitEmbeddings

QUERIES = 12
"""Number of images whose neighbors are listed in the report."""
BANDS = (10, 50, 200)
"""Ends of the bands of axes; the last band ends at d."""


@dataclass(frozen=True)
class AxisFit:
    """Residual and variance along each eigenvector of the training covariance, largest eigenvalue first."""

    residual: Float[np.ndarray, " k"]
    variance: Float[np.ndarray, " k"]
    num_kept: int
    """Axes above the floor; the others are noise that whitening would amplify."""

    @property
    def r2(self) -> Float[np.ndarray, " k"]:
        """R² along each axis, 1 − Σ(ẑ − z)²/Σ(z − z̄)²."""
        fit: Float[np.ndarray, " k"] = 1 - self.residual / np.maximum(self.variance, np.finfo(np.float64).tiny)
        return fit

    @property
    def raw(self) -> float:
        """R² in the raw metric: axes weighted by their variance."""
        return float(1 - self.residual.sum() / self.variance.sum())

    @property
    def whitened(self) -> float:
        """R² in the whitened metric: equal weights for the axes above the floor."""
        return float(self.r2[: self.num_kept].mean())

    def bands(self) -> dict[str, float]:
        """R² pooled within bands of axes, by names such as `11-50`."""
        ends = [*(end for end in BANDS if end < len(self.variance)), len(self.variance)]
        starts = [0, *ends[:-1]]
        return {
            f"{start + 1}-{end}": float(1 - self.residual[start:end].sum() / self.variance[start:end].sum())
            for start, end in zip(starts, ends, strict=True)
        }


def axis_fit(
    student: Float[np.ndarray, "n d"],
    teacher: Float[np.ndarray, "n d"],
    covariance: Float[np.ndarray, "d d"],
    floor: float,
) -> AxisFit:
    """Project both models on the eigenvectors of the training covariance and compare them by axis.

    Rows are L2-normalized if the covariance is of unit rows. Axes below `floor` times the mean eigenvalue are not kept.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    coordinates = teacher.astype(np.float64) @ vectors
    residual = np.sum((student.astype(np.float64) @ vectors - coordinates) ** 2, axis=0)
    count = int(np.sum(values >= floor * values.mean()))
    return AxisFit(residual, np.sum((coordinates - coordinates.mean(axis=0)) ** 2, axis=0), max(count, 1))


def mean_cosine(student: Float[np.ndarray, "n d"], teacher: Float[np.ndarray, "n d"]) -> float:
    """Return the mean cosine between the student's and the teacher's embeddings of the same images."""
    return float(np.einsum("nd,nd->n", l2_normalize(student), l2_normalize(teacher)).mean(dtype=np.float64))


def linear_cka(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"]) -> float:
    """Return the debiased linear centered kernel alignment of two sets of rows.

    HSIC₁(K, L) = [tr K̃L̃ + 1ᵀK̃1 1ᵀL̃1/((n−1)(n−2)) − 2·1ᵀK̃L̃1/(n−2)] / (n(n−3)) with the diagonals of
    K = XXᵀ and L = YYᵀ set to zero (Song et al., 2012); CKA = HSIC(K, L)/√(HSIC(K, K) HSIC(L, L)). Without debiasing,
    two random sets of n < 5d rows would look similar. CKA is not invariant to whitening: state the space.
    """
    first, second = _gram(x), _gram(y)
    return float(_hsic(first, second) / np.sqrt(_hsic(first, first) * _hsic(second, second)))


def neighbor_overlap(student: Int[np.ndarray, "n k"], teacher: Int[np.ndarray, "n k"]) -> float:
    """Return the mean fraction of k nearest neighbors that both models share."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(student, teacher, strict=True)]))


def nearest_other_rows(rows: Float[np.ndarray, "n d"], k: int) -> Int[np.ndarray, "n k"]:
    """Return the k nearest other rows of each row by cosine, best first."""
    vectors = l2_normalize(rows)
    _, nearest = nearest_neighbors(vectors, vectors, k + 1)
    others = nearest != np.arange(len(rows))[:, None]
    others[others.all(axis=1), -1] = False  # a duplicate of the query may rank before the query itself
    neighbors: Int[np.ndarray, "n k"] = nearest[others].reshape(len(rows), -1)
    return neighbors


def _gram(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    gram: Float[np.ndarray, "n n"] = centered @ centered.T
    np.fill_diagonal(gram, 0)
    return gram


def _hsic(first: Float[np.ndarray, "n n"], second: Float[np.ndarray, "n n"]) -> float:
    n = len(first)
    rows, columns = first.sum(axis=1), second.sum(axis=1)
    crossed = np.sum(first * second) + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 * (rows @ columns) / (n - 2)
    return float(crossed / (n * (n - 3)))


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Compare the student with its teacher on val; tables of R² by eigenvector, and of nearest images."""
    val, params, center = inputs.val, inputs.params, inputs.spaces["centered"]
    covariance = inputs.moments.image.covariance
    fit = axis_fit(center.to_target(val.student), center.to_target(val.teacher), covariance, params.floor)
    sample = val.subsample(params.max_images)
    k = min(params.neighbors, len(val.teacher) - 2)
    student_nearest, teacher_nearest = (nearest_other_rows(rows, k) for rows in (val.student, val.teacher))
    metrics = {
        "n": len(val.teacher),
        "r2_raw": fit.raw,
        "r2_whitened": fit.whitened,
        "r2_bands": fit.bands(),
        "axes_kept": fit.num_kept,
        "cosine": mean_cosine(val.student, val.teacher),
        "cka": linear_cka(val.student[sample], val.teacher[sample]),
        "neighbor_overlap": {"k": k, "share": neighbor_overlap(student_nearest, teacher_nearest)},
    }
    eigenvalues = center.image.eigenvalues
    axes = [(i + 1, float(v), float(r)) for i, (v, r) in enumerate(zip(eigenvalues, fit.r2, strict=True))]
    return {"val": metrics}, {
        "val-axes": CsvTable(("axis", "eigenvalue", "r2"), axes),
        "val-neighbors": _neighbor_table(val, student_nearest, teacher_nearest),
    }


def _neighbor_table(val: SplitEmbeddings, student: Int[np.ndarray, "n k"], teacher: Int[np.ndarray, "n k"]) -> CsvTable:
    """Return the nearest images by both models for a fixed random sample of images."""
    keys = val.store.keys
    rows = [
        (keys[query], rank + 1, keys[student[query, rank]], keys[teacher[query, rank]])
        for query in val.subsample(QUERIES)
        for rank in range(student.shape[1])
    ]
    return CsvTable(("key", "rank", "student", "teacher"), rows)
