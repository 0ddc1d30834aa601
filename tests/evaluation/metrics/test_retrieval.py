"""Retrieval against brute force, with ties and duplicates."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics import retrieval
from pipeline.evaluation.metrics.retrieval import (
    RetrievalRanks,
    chance_ranks,
    ground_truth_pairs,
    nearest_in_blocks,
    nearest_neighbors,
    rank_candidates,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def captioned(seed: int, images: int = 60, d: int = 16, noise: float = 1.0) -> tuple[np.ndarray, ...]:
    """Return images, captions near them (one to five each) and offsets."""
    rng = np.random.default_rng(seed)
    image = unit(rng.normal(size=(images, d)))
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 6, images))])
    near = image[np.repeat(np.arange(images), np.diff(offsets))]
    return image, unit(near + noise * rng.normal(size=near.shape) / np.sqrt(d)), offsets


def brute_force(queries: np.ndarray, base: np.ndarray, pairs: np.ndarray) -> list[tuple[int, int, int]]:
    """Count better, wrong ties and right ties in plain loops and float64."""
    found = []
    offered = sorted(set(pairs[:, 1]))
    for q in sorted(set(pairs[:, 0])):
        right = set(pairs[pairs[:, 0] == q, 1])
        score = {b: float(queries[q].astype(np.float64) @ base[b].astype(np.float64)) for b in offered}
        best = max(score[b] for b in right)
        better = sum(s > best + 1e-6 for s in score.values())
        ties = [b for b in offered if abs(score[b] - best) <= 1e-6]
        found.append((better, len([b for b in ties if b not in right]), len([b for b in ties if b in right])))
    return found


def as_tuples(found: RetrievalRanks) -> list[tuple[int, int, int]]:
    return list(zip(found.better.tolist(), found.wrong_ties.tolist(), found.right_ties.tolist(), strict=True))


@pytest.mark.parametrize("noise", [0.1, 1.0, 30.0])
def test_ranks_equal_brute_force_for_good_and_for_useless_models(noise: float) -> None:
    image, text, offsets = captioned(3, noise=noise)
    pairs = ground_truth_pairs(offsets, np.arange(len(text)))
    assert as_tuples(rank_candidates(image, text, pairs)) == brute_force(image, text, pairs)
    assert as_tuples(rank_candidates(text, image, pairs[:, ::-1])) == brute_force(text, image, pairs[:, ::-1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 25))
def test_ranks_equal_brute_force_when_many_images_and_captions_are_the_same(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    image, text, offsets = captioned(seed, images=images, d=4)
    image = image[rng.integers(0, max(1, images // 3), images)]
    words = rng.integers(0, max(1, len(text) // 4), len(text))
    pairs = ground_truth_pairs(offsets, words)
    assert as_tuples(rank_candidates(image, text[words], pairs)) == brute_force(image, text[words], pairs)
    assert as_tuples(rank_candidates(text[words], image, pairs[:, ::-1])) == brute_force(
        text[words], image, pairs[:, ::-1]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 6))
def test_recall_and_median_are_the_mean_over_every_order_of_the_ties(g: int, w: int, r: int, k: int) -> None:
    orders = list(permutations("w" * w + "r" * r))
    best = [g + 1 + order.index("r") for order in orders]
    found = RetrievalRanks(np.array([g]), np.array([w]), np.array([r]))
    assert found.recall(k) == pytest.approx(np.mean([rank <= k for rank in best]))
    assert found.median == pytest.approx(np.mean(best))


def test_a_student_that_says_the_same_of_everything_scores_exactly_chance() -> None:
    _, text, offsets = captioned(5)
    constant = np.repeat(unit(np.ones((1, 16))), 60, axis=0)
    pairs = ground_truth_pairs(offsets, np.arange(len(text)))
    assert rank_candidates(text, constant, pairs[:, ::-1]).summary() == chance_ranks(pairs[:, ::-1]).summary()
    # Negative control: counting only strictly better candidates would call it perfect.
    assert np.all(rank_candidates(text, constant, pairs[:, ::-1]).better == 0)


def test_the_same_words_under_two_images_are_right_for_both() -> None:
    words = np.array(["a cat", "a dog", "a cat"])
    offsets = np.array([0, 2, 3])
    assert ground_truth_pairs(offsets, words).tolist() == [[0, 0], [0, 1], [1, 0]]
    image = unit(np.array([[1.0, 0.1], [1.0, -0.1]]))
    text = unit(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    assert rank_candidates(image, text, ground_truth_pairs(offsets, words)).recall(1) == 1.0
    # Negative control: were they different words, a blind order would be right half the time.
    assert rank_candidates(image, text, ground_truth_pairs(offsets, np.arange(3))).recall(1) == 0.5


def test_an_image_without_a_caption_neither_asks_nor_answers() -> None:
    image = unit(np.eye(3))
    found = rank_candidates(image, image[[0, 2]], ground_truth_pairs(np.array([0, 1, 1, 2]), np.arange(2)))
    assert as_tuples(found) == [(0, 0, 1), (0, 0, 1)]


def test_neighbors_are_those_of_a_full_sort_and_never_more_than_there_are() -> None:
    rng = np.random.default_rng(1)
    queries, base = unit(rng.normal(size=(9, 8))), unit(rng.normal(size=(40, 8)))
    _, rows = nearest_neighbors(queries, base, 7)
    assert np.array_equal(rows, np.argsort(-(queries @ base.T), axis=1)[:, :7])
    assert nearest_neighbors(queries, base[:3], 10)[1].shape == (9, 3)
    assert nearest_neighbors(queries, base[:3], 10)[1].min() >= 0


def test_chance_of_one_image_in_5000_is_k_over_n() -> None:
    blind = chance_ranks(np.stack([np.arange(5000), np.arange(5000)], axis=1))
    assert blind.recall(10) == pytest.approx(0.002)
    assert blind.median == 2500.5


@given(cuts=st.lists(st.integers(0, 90), max_size=6), k=st.integers(1, 12), at_once=st.integers(1, 120))
@settings(max_examples=40, deadline=None)
def test_neighbors_in_blocks_are_those_of_one_search(cuts: list[int], k: int, at_once: int) -> None:
    rng = np.random.default_rng(1)
    queries, base = (rng.standard_normal((n, 6)).astype(np.float32) for n in (5, 90))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retrieval, "NEIGHBOR_ROWS", at_once)
        scores, rows = nearest_in_blocks(queries, np.split(base, sorted(cuts)), k)
    brute = np.argsort(-(queries.astype(np.float64) @ base.T), axis=1, kind="stable")[:, :k]
    assert np.array_equal(rows, brute)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ base.T, brute, 1), rtol=1e-5, atol=1e-6)
