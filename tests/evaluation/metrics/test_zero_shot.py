"""Zero-shot numbers against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix

from pipeline.evaluation.metrics.calibration import calibration_error
from pipeline.evaluation.metrics.zero_shot import ZeroShotPredictions, classify


def random_case(seed: int, n: int = 200, c: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, c, n), rng.integers(0, c, n)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 7))
def test_accuracy_and_confusion_are_scikit_learn_s(seed: int, n: int, c: int) -> None:
    labels, predicted = random_case(seed, n, c)
    found = ZeroShotPredictions(labels, predicted, c)
    assert found.accuracy == accuracy_score(labels, predicted)
    assert np.array_equal(found.confusion, confusion_matrix(labels, predicted, labels=range(c)))


def test_per_class_accuracy_is_the_recall_of_each_class_and_nan_without_images() -> None:
    found = ZeroShotPredictions(np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2]), 4)
    np.testing.assert_array_equal(found.per_class, [0.5, np.nan, 1.0, np.nan])


def test_standard_error_is_the_spread_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    draws = [np.mean(rng.random(400) < 0.7) for _ in range(4000)]
    labels = np.zeros(400, int)
    predicted = (np.arange(400) >= 280).astype(int)
    # A standard deviation of 4,000 draws is known to about 1 %.
    assert ZeroShotPredictions(labels, predicted, 2).standard_error == pytest.approx(np.std(draws), rel=0.05)


def test_prediction_entropy_is_one_when_all_classes_are_used_and_zero_when_one_takes_all() -> None:
    labels = np.arange(10)
    assert ZeroShotPredictions(labels, labels, 10).prediction_entropy == pytest.approx(1.0)
    assert ZeroShotPredictions(labels, np.full(10, 3), 10).prediction_entropy == 0.0


def test_a_student_that_predicts_one_class_has_chance_accuracy() -> None:
    labels = np.repeat(np.arange(10), 7)
    image = np.ones((70, 4), np.float32) / 2
    assert classify(image, np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32), labels).accuracy == 0.1


def test_the_highest_dot_product_wins() -> None:
    rng = np.random.default_rng(4)
    image, classes = rng.normal(size=(30, 6)), rng.normal(size=(5, 6))
    expected = [max(range(5), key=lambda c: float(np.dot(row, classes[c]))) for row in image]
    assert classify(image, classes, np.zeros(30, int)).predicted.tolist() == expected


def calibrated(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, two classes and labels drawn with exactly the probability that the softmax claims."""
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, np.pi / 2, n)
    image, classes = np.stack([np.cos(angle), np.sin(angle)], axis=1), np.eye(2)
    claimed = 1 / (1 + np.exp(-4 * (image[:, 1] - image[:, 0])))
    return image, classes, (rng.random(n) < claimed).astype(int)


def test_calibration_error_is_nothing_for_labels_drawn_as_claimed_and_large_when_overconfident() -> None:
    image, classes, labels = calibrated(20_000)
    # 15 bins of 1,300 draws each err by about 0.01.
    assert calibration_error(image, classes, labels, scale=4.0) < 0.015
    assert calibration_error(image, classes, labels, scale=40.0) > 0.1
