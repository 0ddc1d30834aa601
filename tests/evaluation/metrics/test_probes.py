"""Probes against scikit-learn, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluation.metrics.probes import index_within_class, knn_accuracy, linear_accuracy, probe_accuracies


def blobs(seed: int = 0, n: int = 300, d: int = 12, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    return rng.normal(size=(n, d)) + apart * rng.normal(size=(4, d))[labels], labels


def test_neighbors_vote_as_scikit_learn_s_with_the_same_weights() -> None:
    rows, labels = blobs()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    oracle = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    half = index_within_class(labels) % 2 == 0
    expected = oracle.fit(rows[half], labels[half]).score(rows[~half], labels[~half])
    assert knn_accuracy(rows, labels) == pytest.approx(expected, abs=0.01)  # a tied vote may fall either way


def test_classes_that_take_turns_are_in_both_halves() -> None:
    labels = np.arange(200) % 4  # every second row would be of two classes only
    rows = np.eye(4)[labels] + 0.01 * np.random.default_rng(0).normal(size=(200, 4))
    assert knn_accuracy(rows, labels) == linear_accuracy(rows, labels) == 1.0
    assert index_within_class(np.array([0, 1, 0, 0, 1])).tolist() == [0, 0, 1, 2, 1]


def test_a_linear_probe_reads_what_is_linear_and_nothing_from_shuffled_labels() -> None:
    rows, labels = blobs(apart=2.0)
    assert linear_accuracy(rows, labels) > 0.95
    shuffled = np.random.default_rng(1).permutation(labels)
    assert linear_accuracy(rows, shuffled) == pytest.approx(0.25, abs=0.1)


def test_no_space_wins_by_its_scale() -> None:
    rows, labels = blobs()
    stretched = rows * np.geomspace(1e-4, 1e3, rows.shape[1]) + 50
    assert linear_accuracy(stretched, labels) == linear_accuracy(rows, labels)
    # Negative control: without standardising, the same probe does depend on it.
    plain = [LogisticRegression(max_iter=50).fit(x[::2], labels[::2]) for x in (rows, rows * 1e-3)]
    assert plain[0].score(rows[1::2], labels[1::2]) > plain[1].score(1e-3 * rows[1::2], labels[1::2]) + 0.05


@pytest.mark.parametrize("labels", [np.arange(10), np.zeros(10, int)], ids=["one image a class", "one class"])
def test_a_set_without_two_classes_or_an_image_to_test_has_no_probes(labels: np.ndarray) -> None:
    rows, _ = blobs(n=10)
    assert probe_accuracies(rows, labels) == {}
    # Negative controls: without the check there is no accuracy, and one image more of any of two classes has one.
    with pytest.raises(ValueError, match=r"0 sample|one class"):
        linear_accuracy(rows, labels)
    assert probe_accuracies(rows, np.minimum(np.arange(10), 8)).keys() == {"knn", "linear"}
