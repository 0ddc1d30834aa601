from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.whitening.comoments import Moments
from pipeline.whitening.estimate import estimate_moments
from pipeline.whitening.methods import METHODS, Method, TargetParams
from pipeline.whitening.transforms import AffineTransform, make_transform
from tests.factories.embeddings import clip_like

D = 16
WHITENING: tuple[Method, ...] = ("pca", "zca", "zca-cor", "cholesky")


def fitted(method: Method, x: np.ndarray, **settings: Any) -> AffineTransform:
    moments = estimate_moments(x.astype(np.float64))
    params = TargetParams(method=method, floor=settings.pop("floor", 0.0), **settings)
    linear = METHODS[method](moments.covariance, params)
    mean = np.zeros(D) if method == "raw" else moments.mean
    return make_transform(moments, mean, linear.forward, linear.backward, linear.floored)


def embeddings(n: int = 2000, seed: int = 0) -> np.ndarray:
    return clip_like(n, D, seed=seed)[0]


def covariance(y: np.ndarray) -> np.ndarray:
    return np.cov(y.astype(np.float64), rowvar=False)


@pytest.mark.parametrize("method", WHITENING)
def test_whitened_rows_have_the_identity_as_their_covariance(method: Method) -> None:
    x = embeddings()
    np.testing.assert_allclose(covariance(fitted(method, x).apply(x)), np.eye(D), atol=1e-5)  # float32 targets
    # Negative control: one constant does not decorrelate.
    assert np.abs(covariance(fitted("scale", x).apply(x)) - np.eye(D)).max() > 0.5


def test_with_a_floor_the_kept_axes_are_white_and_the_others_less_than_white() -> None:
    x = embeddings()
    way = fitted("zca", x, floor=0.3)
    values, vectors = np.linalg.eigh(np.cov(x.astype(np.float64), rowvar=False))
    along = vectors.T @ np.cov(((x - way.mean) @ way.forward), rowvar=False) @ vectors
    lowest = 0.3 * values.mean()
    assert way.num_floored == np.sum(values < lowest) > 3
    np.testing.assert_allclose(along, np.diag(np.minimum(1, values / lowest)), atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(method=st.sampled_from(sorted(METHODS)), seed=st.integers(0, 99), floor=st.sampled_from([0.0, 1e-2, 0.5]))
def test_the_inverse_undoes_every_transform_to_float32(method: Method, seed: int, floor: float) -> None:
    x = embeddings(300, seed)
    way = fitted(method, x, floor=floor)
    back = way.invert(way.apply(x))
    # A float32 target carries 6e-8 of each coordinate; the inverse can stretch that by the condition number's root.
    assert np.abs(back - x).max() <= 2e-6 * np.abs(x).max() * max(1.0, np.linalg.cond(way.forward) ** 0.5)


def test_the_spectrum_with_a_tail_of_a_millionth_comes_back() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(D, D)))[0]
    deviations = np.concatenate([np.ones(D - 4), np.full(4, 1e-3)])  # eigenvalues 1 and 1e-6
    x = ((rng.normal(size=(5000, D)) * deviations) @ axes.T).astype(np.float32)
    way = fitted("zca", x)
    expected = np.linalg.eigvalsh(np.cov(x.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(way.eigenvalues, expected, rtol=1e-9)  # float64's 2e-16 of λ_max, over 1e-6
    assert way.num_floored == 0
    np.testing.assert_allclose(covariance(way.apply(x)), np.eye(D), atol=1e-4)
    assert fitted("zca", x, floor=0.01).num_floored == 4


def test_zca_is_the_whitening_that_moves_the_rows_least_and_is_symmetric() -> None:
    x = embeddings()
    centered = x - x.mean(axis=0)
    moved = {m: float(np.sum((fitted(m, x).apply(x) - centered) ** 2)) for m in WHITENING}
    assert min(moved, key=lambda m: moved[m]) == "zca"
    zca = fitted("zca", x).forward
    np.testing.assert_allclose(zca, zca.T, atol=1e-12)
    # Negative control: the other whitenings are not symmetric.
    assert np.abs(fitted("cholesky", x).forward - fitted("cholesky", x).forward.T).max() > 1e-3


def test_zca_cor_is_the_whitening_that_correlates_most_with_the_rows() -> None:
    x = embeddings() * np.linspace(1, 20, D).astype(np.float32)  # outlier coordinates, as CLIP has them
    correlation = {m: np.trace(np.corrcoef(x.T, fitted(m, x).apply(x).T)[:D, D:]) for m in WHITENING}
    assert max(correlation, key=lambda m: correlation[m]) == "zca-cor"


def test_pca_keeps_the_axes_of_largest_variance_in_order() -> None:
    x = embeddings()
    way = fitted("pca", x, components=5)
    y = way.apply(x)
    left = np.linalg.svd(x.astype(np.float64) - x.mean(axis=0, dtype=np.float64), full_matrices=False)[0][:, :5]
    np.testing.assert_allclose(np.abs(np.corrcoef(left.T, y.T)[:5, 5:]).diagonal(), 1, atol=1e-6)
    assert y.shape == (len(x), 5)
    lost = np.mean(np.sum((way.invert(y) - x) ** 2, axis=1)) * len(x) / (len(x) - 1)
    assert lost == pytest.approx(way.eigenvalues[5:].sum(), rel=1e-4)  # the residual is the variance cut off


def test_cholesky_is_triangular() -> None:
    assert np.abs(np.triu(fitted("cholesky", embeddings()).forward, 1)).max() == 0


def test_phi_s_gives_every_coordinate_variance_one_and_every_direction_one_constant() -> None:
    x = embeddings()
    way = fitted("phi-s", x)
    np.testing.assert_allclose(covariance(way.apply(x)).diagonal(), 1, atol=1e-5)
    singular = np.linalg.svd(way.forward, compute_uv=False)
    np.testing.assert_allclose(singular, singular[0], rtol=1e-12)


def test_standardize_gives_every_coordinate_variance_one_and_keeps_their_correlations() -> None:
    x = embeddings()
    np.testing.assert_allclose(covariance(fitted("standardize", x).apply(x)), np.corrcoef(x.T), atol=1e-5)


def test_scale_is_centering_and_one_constant() -> None:
    x = embeddings()
    y = fitted("scale", x).apply(x)
    ratio = y / (x - x.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert np.trace(covariance(y)) == pytest.approx(D, rel=1e-6)


def test_raw_changes_nothing_and_center_moves_the_mean_only() -> None:
    x = embeddings()
    np.testing.assert_array_equal(fitted("raw", x).apply(x), x)
    y = fitted("center", x).apply(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(covariance(y), covariance(x), atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5, 1.0])
def test_soft_zca_goes_from_one_constant_to_zca_and_keeps_the_total_variance(power: float) -> None:
    x = embeddings()
    y = fitted("soft-zca", x, power=power).apply(x)
    assert np.trace(covariance(y)) == pytest.approx(D, rel=1e-5)
    if power in (0.0, 1.0):
        np.testing.assert_allclose(y, fitted("zca" if power else "scale", x).apply(x), atol=1e-4)


def test_turning_the_embeddings_turns_zca_targets_the_same_way_and_leaves_cholesky_behind() -> None:
    x = embeddings().astype(np.float64)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))[0]
    np.testing.assert_allclose(fitted("zca", x @ turn).apply(x @ turn), fitted("zca", x).apply(x) @ turn, atol=1e-4)
    # Negative control: a whitening that depends on the order of the coordinates does not follow.
    assert np.abs(fitted("cholesky", x @ turn).apply(x @ turn) - fitted("cholesky", x).apply(x) @ turn).max() > 0.1


def test_distances_are_the_same_under_every_whitening_of_one_modality() -> None:
    x = embeddings(200)
    expected = np.linalg.norm(np.diff(fitted("zca", x).apply(x), axis=0), axis=1)
    for method in WHITENING:
        found = np.linalg.norm(np.diff(fitted(method, x).apply(x), axis=0), axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_ordinary_least_squares_predicts_the_same_embedding_from_any_target_space() -> None:
    rng = np.random.default_rng(0)
    x, features = embeddings(500), rng.normal(size=(500, 6))

    def predicted(method: Method) -> np.ndarray:
        way = fitted(method, x)
        y = (x.astype(np.float64) - way.mean) @ way.forward
        design = np.column_stack([np.ones(500), features])
        return design @ np.linalg.lstsq(design, y, rcond=None)[0] @ way.backward + way.mean

    for method in METHODS:
        np.testing.assert_allclose(predicted(method), predicted("raw"), atol=1e-9)


def test_every_step_of_gradient_descent_predicts_the_same_embedding_from_any_target_space() -> None:
    rng = np.random.default_rng(0)
    x, features = embeddings(500), rng.normal(size=(500, 6))

    def after(method: Method, steps: int) -> np.ndarray:
        way = fitted(method, x)
        y = (x.astype(np.float64) - fitted("center", x).mean) @ way.forward
        weights = np.zeros((6, D))
        for _ in range(steps):
            weights -= 0.1 * features.T @ (features @ weights - y) / 500
        return features @ weights @ way.backward

    for method in METHODS:
        np.testing.assert_allclose(after(method, 7), after("raw", 7), atol=1e-9)
    # Negative control: it is no fixed point yet.
    assert np.abs(after("raw", 8) - after("raw", 7)).max() > 1e-3


def test_the_radius_is_that_of_the_rows_it_was_fitted_on() -> None:
    x = embeddings()
    for method in METHODS:
        way = fitted(method, x, floor=0.1)
        y = way.apply(x).astype(np.float64)
        assert way.rms_norm == pytest.approx(np.sqrt(np.mean(np.sum(y**2, axis=1))), rel=1e-5)


def test_moments_are_all_that_a_transform_needs() -> None:
    halves = [estimate_moments(half.astype(np.float64)) for half in np.split(embeddings(), 2)]
    merged = Moments.merge(*halves)
    np.testing.assert_allclose(merged.covariance, covariance(embeddings()), atol=1e-12)
