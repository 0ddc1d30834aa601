"""Cross-modal retrieval and nearest neighbours, exact; the one door to faiss.

COCO's convention: an image finds its text if any of its captions is among the first k, a caption
finds its image if that one is. Ties contribute their expected recall under a random order: a constant
embedding scores chance, not one. A caption with the same words under two images is right for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from jaxtyping import Float, Int, Shaped

from pipeline.evaluation.scoring_rules import ReferenceSpaces, retention, score_vectors

if TYPE_CHECKING:  # not counted by code digests: parameters of other metrics decide nothing here
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables

DIRECTIONS = ("image_to_text", "text_to_image")
TIE = 1e-6
"""Two scores of unit vectors nearer than this are a tie: float32 dot products err by about 1e-7."""
SEARCH_K = 10
"""Neighbors requested from faiss; queries that these do not decide are scored against the whole base."""
NEIGHBOR_ROWS = 16_384
"""Rows of a cache that are searched at once: 34 MB at d = 512."""
BLOCK_ROWS = 512
"""Queries counted at once: 512 × 25,000 scores are 51 MB."""


@dataclass(frozen=True)
class RetrievalRanks:
    """How many candidates are better than a query's best right answer, and how many are as good."""

    better: Int[np.ndarray, " n"]
    wrong_ties: Int[np.ndarray, " n"]
    right_ties: Int[np.ndarray, " n"]

    def recall(self, k: int) -> float:
        """Probability that a right answer is among the first k, over queries and blind orders of ties.

        With g better, w wrong and r right at a tie: 1 − C(w, k − g) / C(w + r, k − g), and 0 for g ≥ k.
        """
        miss = np.ones(len(self.better))
        for i in range(k):
            factor = np.maximum(self.wrong_ties - i, 0) / np.maximum(self.wrong_ties + self.right_ties - i, 1)
            miss *= np.where(i < k - self.better, factor, 1.0)
        return float(1.0 - miss.mean())

    @property
    def median(self) -> float:
        """Median over queries of the best right answer's expected rank, g + (w + r + 1)/(r + 1)."""
        return float(np.median(self.better + (self.wrong_ties + self.right_ties + 1) / (self.right_ties + 1)))

    def summary(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """Return R@k and the median rank by the names of metrics.json."""
        return {**{f"R@{k}": self.recall(k) for k in ks}, "median_rank": self.median}


def ground_truth_pairs(
    offsets: Int[np.ndarray, " n_plus_1"], words: Shaped[np.ndarray, " m"]
) -> Int[np.ndarray, "p 2"]:
    """Return (image, caption) of every right answer, captions of the same words counted once, as their first.

    `words` identifies a caption's words: the words themselves, or their hash.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    _, first, text = np.unique(words, return_index=True, return_inverse=True)
    return np.unique(np.stack([owner, first[text]], axis=1), axis=0)


def rank_candidates(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], pairs: Int[np.ndarray, "p 2"]
) -> RetrievalRanks:
    """Rank the unit rows of `base` for each unit query; `pairs` holds (query, base row) of the right answers.

    Queries are those that stand in a pair, candidates the base rows that do; the rest take no part.
    """
    queries, base, query, answer = _compact(queries, base, pairs)
    own = np.einsum("pd,pd->p", queries[query], base[answer])
    best = np.full(len(queries), -np.inf, np.float32)
    np.maximum.at(best, query, own)
    right = np.bincount(query[own >= best[query] - TIE], minlength=len(queries))
    better, reached = _counts(queries, base, best)
    return RetrievalRanks(better, np.maximum(reached - better - right, 0), right)


def chance_ranks(pairs: Int[np.ndarray, "p 2"]) -> RetrievalRanks:
    """Return what a blind order scores: every candidate at a tie."""
    right = np.unique(pairs[:, 0], return_counts=True)[1]
    return RetrievalRanks(np.zeros_like(right), len(np.unique(pairs[:, 1])) - right, right)


def nearest_neighbors(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], k: int
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Return scores and row numbers of the k largest dot products, best first, k at most m.

    Never in a forked process: faiss's threads do not survive a fork, and the search would hang.
    """
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(np.ascontiguousarray(base, np.float32))
    scores, rows = index.search(np.ascontiguousarray(queries, np.float32), min(k, len(base)))
    return scores, rows


def nearest_in_blocks(
    queries: Float[np.ndarray, "n d"], blocks: Iterable[Float[np.ndarray, "m d"]], k: int
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Return what `nearest_neighbors` gives of all blocks together, holding NEIGHBOR_ROWS of their rows at a time.

    Exact: the k best of a set are among the k best of its parts.
    """
    scores, rows, start = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64), 0
    for block in _joined(blocks):
        found, numbers = nearest_neighbors(queries, block, k)
        scores, rows = np.hstack([scores, found]), np.hstack([rows, numbers + start])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        start += len(block)
    return scores, rows


def _joined(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks put together to NEIGHBOR_ROWS rows or a little more."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= NEIGHBOR_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield np.concatenate(waiting)


def _compact(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], pairs: Int[np.ndarray, "p 2"]
) -> tuple[Float[np.ndarray, "q d"], Float[np.ndarray, "b d"], Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Drop rows that stand in no pair, and renumber the pairs."""
    asked, query = np.unique(pairs[:, 0], return_inverse=True)
    offered, answer = np.unique(pairs[:, 1], return_inverse=True)
    return queries[asked], base[offered], query, answer


def _counts(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], best: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return how many candidates score above `best`, and how many at least tie with it."""
    listed, _ = nearest_neighbors(queries, base, SEARCH_K)
    better = np.sum(listed > best[:, None] + TIE, axis=1)
    reached = np.sum(listed >= best[:, None] - TIE, axis=1)
    unsettled = np.flatnonzero(reached == listed.shape[1])
    for start in range(0, len(unsettled), BLOCK_ROWS):
        rows = unsettled[start : start + BLOCK_ROWS]
        scores = queries[rows] @ base.T
        better[rows] = np.sum(scores > best[rows, None] + TIE, axis=1)
        reached[rows] = np.sum(scores >= best[rows, None] - TIE, axis=1)
    return better, reached


def score_retrieval(
    rule: str,
    image: Float[np.ndarray, "n d"],
    text: Float[np.ndarray, "m d"],
    pairs: Int[np.ndarray, "p 2"],
    spaces: ReferenceSpaces,
) -> dict[str, dict[str, float]]:
    """Return recalls and median rank in both directions, of one model's images against the teacher's captions."""
    image, text = score_vectors(rule, image, text, spaces)
    return _by_direction(rank_candidates(image, text, pairs), rank_candidates(text, image, pairs[:, ::-1]))


def chance_retrieval(pairs: Int[np.ndarray, "p 2"]) -> dict[str, dict[str, float]]:
    """Return what chance scores on the same pairs."""
    return _by_direction(chance_ranks(pairs), chance_ranks(pairs[:, ::-1]))


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score retrieval between the images of val and all of its captions by each rule.

    Captions are the teacher's cached embeddings; `own_text` uses those of the student's own text tower.
    """
    val, spaces = inputs.val, inputs.spaces
    pairs, text = ground_truth_pairs(val.store.offsets, val.store.caption_hashes()), val.store.text().load()
    chance = chance_retrieval(pairs)
    by_rule: dict[str, Any] = {}
    for rule in inputs.rules:
        student, teacher = (score_retrieval(rule, rows, text, pairs, spaces) for rows in (val.student, val.teacher))
        kept = {way: retention(student[way]["R@1"], teacher[way]["R@1"]) for way in student}
        by_rule[rule] = {"student": student, "ceiling": teacher, "chance": chance, "kept": kept}
        if val.student_text is not None:
            by_rule[rule]["own_text"] = score_retrieval(rule, val.student, val.student_text, pairs, spaces)
    return {"val": by_rule}, {}


def count_captions(inputs: EvaluationInputs) -> MetricsAndTables:
    """Return how many captions val has and how many of them differ: the candidates of retrieval."""
    hashes = inputs.val.store.caption_hashes()
    return {"val": {"n": len(hashes), "distinct": len(np.unique(hashes))}}, {}


def _by_direction(to_text: RetrievalRanks, to_image: RetrievalRanks) -> dict[str, dict[str, float]]:
    return {way: ranks.summary() for way, ranks in zip(DIRECTIONS, (to_text, to_image), strict=True)}
