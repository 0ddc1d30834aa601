"""Agreement with the teacher against scikit-learn, closed forms and its invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from sklearn.neighbors import NearestNeighbors

from pipeline.evaluation.metrics.agreement import (
    axis_fit,
    linear_cka,
    mean_cosine,
    nearest_other_rows,
    neighbor_overlap,
)


def models(seed: int = 0, n: int = 300, d: int = 20, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Return a student and its teacher, whose spectrum decays and whose mean is far from zero."""
    rng = np.random.default_rng(seed)
    teacher = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.7 + 1
    return (teacher + noise * rng.normal(size=(n, d)) * 0.3).astype(np.float32), teacher.astype(np.float32)


def rotation(seed: int, d: int = 20) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_raw_r2_is_scikit_learn_s_weighted_by_variance() -> None:
    student, teacher = models()
    found = axis_fit(student, teacher, np.cov(teacher.T), 0.0)
    assert found.raw == pytest.approx(r2_score(teacher, student, multioutput="variance_weighted"), abs=1e-6)


def test_whitened_r2_is_scikit_learn_s_plain_mean_in_whitened_coordinates() -> None:
    student, teacher = models()
    covariance = np.cov(teacher.T)
    values, vectors = np.linalg.eigh(covariance)
    white = vectors / np.sqrt(values)
    expected = r2_score(teacher @ white, student @ white, multioutput="uniform_average")
    assert axis_fit(student, teacher, covariance, 0.0).whitened == pytest.approx(expected, abs=1e-5)


def test_weak_axes_below_the_floor_do_not_count_in_the_whitened_metric() -> None:
    student, teacher = models()
    teacher[:, -1] = 1 + 1e-4 * teacher[:, 0]
    covariance = np.cov(teacher.T)
    assert axis_fit(student, teacher, covariance, 0.01).num_kept == 19
    assert axis_fit(student, teacher, covariance, 0.0).whitened < axis_fit(student, teacher, covariance, 0.01).whitened


def test_bands_pool_residuals_and_cover_every_axis() -> None:
    student, teacher = models()
    found = axis_fit(student, teacher, np.cov(teacher.T), 0.0)
    assert list(found.bands()) == ["1-10", "11-20"]
    pooled = np.average(list(found.bands().values()), weights=[found.variance[:10].sum(), found.variance[10:].sum()])
    assert pooled == pytest.approx(found.raw)


def test_a_perfect_student_agrees_everywhere_and_the_mean_alone_explains_nothing() -> None:
    _, teacher = models()
    covariance = np.cov(teacher.T)
    perfect, blind = (axis_fit(s, teacher, covariance, 0.0) for s in (teacher, np.ones_like(teacher) * teacher.mean(0)))
    assert perfect.raw == perfect.whitened == 1.0
    assert blind.raw == pytest.approx(0.0, abs=1e-6)
    assert mean_cosine(teacher, teacher) == pytest.approx(1.0, abs=1e-6)
    assert mean_cosine(3 * teacher, teacher) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_cka_does_not_change_under_rotation_shift_and_scale(seed: int, scale: float) -> None:
    student, teacher = models(seed, n=60)
    moved = scale * student @ rotation(seed) + 5
    assert linear_cka(moved, teacher) == pytest.approx(linear_cka(student, teacher), abs=1e-4)


def test_cka_does_change_under_whitening() -> None:
    student, teacher = models()
    stretched = student * np.arange(1, 21) ** 0.7
    assert abs(linear_cka(stretched, teacher) - linear_cka(student, teacher)) > 0.01


def test_cka_of_unrelated_rows_is_zero_even_with_fewer_rows_than_dimensions() -> None:
    rng = np.random.default_rng(0)
    found = [linear_cka(rng.normal(size=(30, 60)), rng.normal(size=(30, 60))) for _ in range(40)]
    assert abs(np.mean(found)) < 0.03  # standard error of 40 draws: 0.008
    # Negative control: the biased estimate says that they are two thirds alike.
    x, y = (rng.normal(size=(30, 60)) for _ in range(2))
    x, y = x - x.mean(0), y - y.mean(0)
    biased = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert biased > 0.4


def test_debiased_and_plain_cka_meet_for_many_rows() -> None:
    student, teacher = models(n=3000)
    x, y = student - student.mean(0), teacher - teacher.mean(0)
    plain = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(student, teacher) == pytest.approx(plain, abs=2e-3)


def test_neighbors_are_scikit_learn_s_without_the_row_itself() -> None:
    rows, _ = models(n=80)
    oracle = NearestNeighbors(n_neighbors=6, metric="cosine").fit(rows).kneighbors(rows, return_distance=False)
    expected = [[j for j in row if j != i][:5] for i, row in enumerate(oracle)]
    assert nearest_other_rows(rows, 5).tolist() == expected


def test_a_row_with_many_duplicates_still_has_k_other_neighbors() -> None:
    rows = np.repeat(models(n=4)[0], 10, axis=0)
    found = nearest_other_rows(rows, 3)
    assert found.shape == (40, 3)
    assert np.array_equal(found // 10, np.repeat(np.arange(40) // 10, 3).reshape(40, 3))


def test_overlap_is_one_for_a_rotated_copy_and_chance_for_a_stranger() -> None:
    _, teacher = models(n=200)
    theirs = nearest_other_rows(teacher, 10)
    assert neighbor_overlap(nearest_other_rows(teacher @ rotation(1), 10), theirs) > 0.99
    stranger = np.random.default_rng(5).normal(size=teacher.shape)
    assert neighbor_overlap(nearest_other_rows(stranger, 10), theirs) == pytest.approx(10 / 199, abs=0.02)
