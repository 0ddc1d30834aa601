"""Exact cross-modal retrieval and nearest neighbors.

COCO's convention: an image finds its text if any of its captions is among the first k, a caption finds its image if
that one is. Ties contribute their expected recall under a random order: a constant embedding scores chance, not one. A
caption with the same words for two images is correct for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from jaxtyping import Float, Int, Shaped

from pipeline.evaluation.scoring_rules import ReferenceSpaces, retention, score_vectors

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables

DIRECTIONS = ("image_to_text", "text_to_image")
TIE = 1e-6
"""Scores of unit vectors within this distance are ties; float32 dot products err by about 1e-7."""
SEARCH_K = 10
"""Neighbors requested from faiss; queries that these do not decide are scored against all candidates."""
NEIGHBOR_ROWS = 16_384
"""Rows of a cache searched at once: 34 MB at d = 512."""
BLOCK_ROWS = 512
"""Queries ranked at once: 512 × 25,000 scores are 51 MB."""


@dataclass(frozen=True)
class RetrievalRanks:
    """Number of candidates that score higher than a query's best correct answer, and number of ties."""

    better: Int[np.ndarray, " n"]
    wrong_ties: Int[np.ndarray, " n"]
    right_ties: Int[np.ndarray, " n"]

    def recall(self, k: int) -> float:
        """Probability that a correct answer is among the first k, over queries and random orders of ties.

        With g better, w wrong and r correct candidates at a tie: 1 − C(w, k − g) / C(w + r, k − g), and 0 for g ≥ k.
        """
        miss = np.ones(len(self.better))
        for i in range(k):
            factor = np.maximum(self.wrong_ties - i, 0) / np.maximum(self.wrong_ties + self.right_ties - i, 1)
            miss *= np.where(i < k - self.better, factor, 1.0)
        return float(1.0 - miss.mean())

    @property
    def median(self) -> float:
        """Median over queries of the expected rank of the best correct answer, g + (w + r + 1)/(r + 1)."""
        return float(np.median(self.better + (self.wrong_ties + self.right_ties + 1) / (self.right_ties + 1)))

    def summary(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """Return R@k and the median rank by the names of metrics.json."""
        return {**{f"R@{k}": self.recall(k) for k in ks}, "median_rank": self.median}


def ground_truth_pairs(
    offsets: Int[np.ndarray, " n_plus_1"], words: Shaped[np.ndarray, " m"]
) -> Int[np.ndarray, "p 2"]:
    """Return (image, caption) of every correct pair; captions of the same words count once, as the first of them.

    `words` identifies a caption's words: the words themselves, or their hash.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    _, first, text = np.unique(words, return_index=True, return_inverse=True)
    return np.unique(np.stack([owner, first[text]], axis=1), axis=0)


def rank_candidates(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], pairs: Int[np.ndarray, "p 2"]
) -> RetrievalRanks:
    """Rank the unit rows of `base` for each unit query; `pairs` has (query, base row) of the correct answers.

    Only queries and base rows that occur in a pair are used.
    """
    queries, base, query, answer = _compact(queries, base, pairs)
    own = np.einsum("pd,pd->p", queries[query], base[answer])
    best = np.full(len(queries), -np.inf, np.float32)
    np.maximum.at(best, query, own)
    right = np.bincount(query[own >= best[query] - TIE], minlength=len(queries))
    better, reached = _counts(queries, base, best)
    return RetrievalRanks(better, np.maximum(reached - better - right, 0), right)


def chance_ranks(pairs: Int[np.ndarray, "p 2"]) -> RetrievalRanks:
    """Return the ranks at chance: all candidates tie."""
    right = np.unique(pairs[:, 0], return_counts=True)[1]
    return RetrievalRanks(np.zeros_like(right), len(np.unique(pairs[:, 1])) - right, right)


def nearest_neighbors(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], k: int
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Return scores and row numbers of the k largest dot products, best first, k at most m.

    Do not call it in a forked process: faiss's threads do not survive a fork, and the search would hang.
    """
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(np.ascontiguousarray(base, np.float32))
    scores, rows = index.search(np.ascontiguousarray(queries, np.float32), min(k, len(base)))
    return scores, rows


def nearest_in_blocks(
    queries: Float[np.ndarray, "n d"], blocks: Iterable[Float[np.ndarray, "m d"]], k: int
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """Return the result of `nearest_neighbors` over all blocks, with NEIGHBOR_ROWS rows in memory at a time.

    Exact: the k best of a set are among the k best of its parts.
    """
    scores, rows, start = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64), 0
    for block in _joined(blocks):
        block_scores, numbers = nearest_neighbors(queries, block, k)
        scores, rows = np.hstack([scores, block_scores]), np.hstack([rows, numbers + start])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        start += len(block)
    return scores, rows


def _joined(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks, concatenated to NEIGHBOR_ROWS rows or slightly more."""
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
    """Drop rows that occur in no pair, and renumber the pairs."""
    unique_queries, query = np.unique(pairs[:, 0], return_inverse=True)
    offered, answer = np.unique(pairs[:, 1], return_inverse=True)
    return queries[unique_queries], base[offered], query, answer


def _counts(
    queries: Float[np.ndarray, "n d"], base: Float[np.ndarray, "m d"], best: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return the number of candidates that score above `best`, and of those that at least tie with it."""
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
    """Return recalls and median rank in both directions, of one model's images and the teacher's captions."""
    image, text = score_vectors(rule, image, text, spaces)
    return _by_direction(rank_candidates(image, text, pairs), rank_candidates(text, image, pairs[:, ::-1]))


def chance_retrieval(pairs: Int[np.ndarray, "p 2"]) -> dict[str, dict[str, float]]:
    """Return the same at chance."""
    return _by_direction(chance_ranks(pairs), chance_ranks(pairs[:, ::-1]))


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score retrieval between the images of val and all of its captions under each rule.

    Captions are the teacher's cached embeddings; `own_text` uses the student's own text tower.
    """
    val, spaces = inputs.val, inputs.spaces
    pairs, text = ground_truth_pairs(val.store.offsets, val.store.caption_hashes()), val.store.text().load()
    chance = chance_retrieval(pairs)
    by_rule: dict[str, Any] = {}
    for rule in inputs.rules:
        student, teacher = (score_retrieval(rule, rows, text, pairs, spaces) for rows in (val.student, val.teacher))
        retained = {way: retention(student[way]["R@1"], teacher[way]["R@1"]) for way in student}
        by_rule[rule] = {"student": student, "ceiling": teacher, "chance": chance, "kept": retained}
        if val.student_text is not None:
            by_rule[rule]["own_text"] = score_retrieval(rule, val.student, val.student_text, pairs, spaces)
    return {"val": by_rule}, {}


def count_captions(inputs: EvaluationInputs) -> MetricsAndTables:
    """Return the number of captions of val, and of distinct ones, the candidates of retrieval."""
    hashes = inputs.val.store.caption_hashes()
    return {"val": {"n": len(hashes), "distinct": len(np.unique(hashes))}}, {}


def _by_direction(to_text: RetrievalRanks, to_image: RetrievalRanks) -> dict[str, dict[str, float]]:
    return {way: ranks.summary() for way, ranks in zip(DIRECTIONS, (to_text, to_image), strict=True)}
