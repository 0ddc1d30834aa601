"""A student beside its ceiling, the teacher under the same rule, and beside chance."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cache.shard import PromptShard
from pipeline.evaluation.metrics.retrieval import RetrievalRanks, chance_ranks, rank_candidates
from pipeline.evaluation.metrics.zero_shot import ZeroShotPredictions, classify
from pipeline.evaluation.scoring_rules import ReferenceSpaces, image_vectors, prompt_vectors, score_vectors

DIRECTIONS = ("image_to_text", "text_to_image")
CHANCE_ERRORS = 3.0
"""Standard errors of guessing above which an accuracy is no luck: once in 700 sets it would be."""


@dataclass(frozen=True)
class ZeroShotComparison:
    """One labelled set under one rule: the student's answers and the teacher's."""

    student: ZeroShotPredictions
    teacher: ZeroShotPredictions

    def summary(self) -> dict[str, Any]:
        """Return the numbers by the names of metrics.json; `kept` is what of the ceiling the student reaches.

        `kept_above_chance` is what it reaches of the way from chance to the ceiling.
        """
        chance_level, count = 1 / self.student.classes, len(self.student.labels)
        return {
            "student": self.student.accuracy,
            "ceiling": self.teacher.accuracy,
            "chance": chance_level,
            "kept": retention(self.student.accuracy, self.teacher.accuracy),
            "kept_above_chance": kept_above_chance(self.student.accuracy, self.teacher.accuracy, chance_level, count),
            "n": count,
            "standard_error": self.student.standard_error,
            "prediction_entropy": self.student.prediction_entropy,
            "agreement": float(np.mean(self.student.predicted == self.teacher.predicted)),
        }


def compare_zero_shot(
    rule: str,
    student: Float[np.ndarray, "n d"],
    teacher: Float[np.ndarray, "n d"],
    *,
    labels: Int[np.ndarray, " n"],
    prompts: PromptShard,
    spaces: ReferenceSpaces,
) -> ZeroShotComparison:
    """Classify images by a rule, from the student's embeddings and from the teacher's."""
    classes = prompt_vectors(rule, prompts, spaces)
    mine, ceiling = (classify(image_vectors(rule, rows, spaces), classes, labels) for rows in (student, teacher))
    return ZeroShotComparison(mine, ceiling)


def score_retrieval(
    rule: str,
    image: Float[np.ndarray, "n d"],
    text: Float[np.ndarray, "m d"],
    pairs: Int[np.ndarray, "p 2"],
    spaces: ReferenceSpaces,
) -> dict[str, dict[str, float]]:
    """Return recalls and median rank, both ways, of one model's images against the teacher's captions."""
    image, text = score_vectors(rule, image, text, spaces)
    return _both(rank_candidates(image, text, pairs), rank_candidates(text, image, pairs[:, ::-1]))


def chance_retrieval(pairs: Int[np.ndarray, "p 2"]) -> dict[str, dict[str, float]]:
    """Return what chance scores on the same pairs."""
    return _both(chance_ranks(pairs), chance_ranks(pairs[:, ::-1]))


def retention(student: float, ceiling: float) -> float | None:
    """Return student/ceiling, or nothing where the ceiling is zero."""
    return student / ceiling if ceiling > 0 else None


def is_above_chance(accuracy: float, chance_level: float, count: int) -> bool:
    """Return whether an accuracy over so many images is more than guessing gives: by three of its standard errors."""
    return accuracy - chance_level > CHANCE_ERRORS * sqrt(chance_level * (1 - chance_level) / count)


def kept_above_chance(student: float, ceiling: float, chance_level: float, count: int) -> float | None:
    """Return (student − chance)/(ceiling − chance), or nothing where the ceiling cannot be told from chance."""
    if not is_above_chance(ceiling, chance_level, count):
        return None
    return (student - chance_level) / (ceiling - chance_level)


def _both(to_text: RetrievalRanks, to_image: RetrievalRanks) -> dict[str, dict[str, float]]:
    return {way: found.summary() for way, found in zip(DIRECTIONS, (to_text, to_image), strict=True)}
