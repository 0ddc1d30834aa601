"""Flat maps: the same samples give the same picture."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from pipeline.evaluation.metrics.geometry import pca, tsne


def two_clusters(n: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(n, 8)), rng.normal(size=(n, 8)) + 6])


def test_principal_coordinates_are_scikit_learn_s_up_to_sign() -> None:
    rows = two_clusters()
    expected = PCA(3).fit_transform(rows)
    np.testing.assert_allclose(np.abs(pca(rows, 3)), np.abs(expected), atol=1e-8)


def test_signs_do_not_depend_on_the_library() -> None:
    rows = two_clusters()
    np.testing.assert_allclose(pca(rows[::-1])[::-1], pca(rows), atol=1e-9)


def test_tsne_keeps_clusters_together_and_repeats_itself() -> None:
    rows = two_clusters()
    flat = tsne(rows, seed=0)
    assert np.array_equal(flat, tsne(rows, seed=0))
    centres = flat[:30].mean(axis=0), flat[30:].mean(axis=0)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * max(flat[:30].std(), flat[30:].std()) / 2
