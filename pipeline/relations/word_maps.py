"""Contribution of each word at each position of an image to the score of a dense map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.relations.cached_tokens import CachedTokens, StudentTokens
from pipeline.relations.choice_sets import ChoiceSet
from pipeline.relations.fitting import TokenSource, score_pairs
from pipeline.relations.scorers import CosineScorer, DcsmScorer, Scorer

COLUMNS = ("key", "task", "tokens", "caption", "true", "score", "cosine", "word", "places")


def map_table(own: Scorer, teachers: Scorer, cached: CachedTokens, student_tokens: StudentTokens) -> CsvTable | None:
    """Return the maps of one question per task, by the student and by its teacher; None for a scorer without maps.

    The question is the first that the student's scorer answers correctly and its cosine does not.
    """
    if not isinstance(own, DcsmScorer) or not isinstance(teachers, DcsmScorer):
        return None
    questions = telling_questions(own, student_tokens)
    rows = [
        row
        for question in questions
        for who, scorer, tokens in (("student", own, student_tokens), ("teacher", teachers, cached))
        for row in _rows(question, who, scorer, tokens, cached)
    ]
    return CsvTable(COLUMNS, rows)


def telling_questions(scorer: Scorer, tokens: StudentTokens) -> list[int]:
    """Return one question per task: the first that the scorer answers correctly and cosine does not, else the first."""
    choices = tokens.choices
    right = _is_right(choices, score_pairs(scorer, tokens, choices.pairs))
    blind = _is_right(choices, score_pairs(CosineScorer(), tokens.without_tokens(), choices.pairs))
    questions = []
    for task in choices.tasks:
        rows = [i for i, question in enumerate(choices.questions) if question.task == task]
        questions.append(next((i for i in rows if right[i] and not blind[i]), rows[0]))
    return questions


def _is_right(choices: ChoiceSet, scores: Float[np.ndarray, " q"]) -> list[bool]:
    return [bool(scores[rows[0]] > scores[rows[1:]].max()) for rows in choices.candidates]


def _rows(
    question: int, who: str, scorer: DcsmScorer, tokens: CachedTokens | StudentTokens, cached: CachedTokens
) -> Iterator[tuple[Any, ...]]:
    choices = tokens.choices
    choice, pairs = choices.questions[question], choices.pairs[choices.candidates[question]]
    scores, maps = contributions(scorer, tokens, pairs)
    cosine = score_pairs(CosineScorer(), tokens.without_tokens(), pairs)
    for i, (image, text) in enumerate(pairs):
        caption = choices.texts[text]
        numbers = cached.words_of_tokens(int(text))
        for number, word in enumerate(caption.split()):
            places = maps[i][: len(numbers)][numbers == number].sum(axis=0)
            cells = " ".join(f"{value:.3g}" for value in places)
            about = tokens.store.keys[image], choice.task, who, caption, int(i == 0), float(scores[i]), float(cosine[i])
            yield (*about, word, cells)


def contributions(
    scorer: DcsmScorer, tokens: TokenSource, pairs: Int[np.ndarray, "q 2"]
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "q t p"]]:
    """Return the scores of pairs, and Z · ∂s/∂Z at each token and position (input × gradient, Shrikumar et al., 2016).

    The network is piecewise linear, so the contributions of a pair add up to its score minus the effect of biases.
    """
    images, texts = tokens.images(pairs[:, 0]), tokens.texts(pairs[:, 1])
    with torch.no_grad():
        maps = scorer.standardized_maps(images, texts)
    maps.requires_grad_()
    scores = scorer.eval().score_maps(maps)
    (gradient,) = torch.autograd.grad(scores.sum(), maps)
    return scores.detach().numpy(), (maps * gradient).detach().numpy()
