"""What a score is made of, and what a second look does to the order of answers."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.relations.params import ScorerParams
from pipeline.relations.reranking import recalls_by_second_look
from pipeline.relations.scorers import DcsmScorer, build_scorer
from pipeline.relations.word_maps import contributions
from tests.relations.test_scorers import Quadrants


def test_contributions_add_up_to_the_score_of_a_network_without_biases() -> None:
    """Piecewise linear: s = Z · ∂s/∂Z where nothing else is added; with biases they are what is left over."""
    data, scorer = Quadrants(4, 1), build_scorer(ScorerParams(kind="dcsm", columns=3), 16, 16)
    assert isinstance(scorer, DcsmScorer)
    scores, parts = contributions(scorer, data, data.choices.pairs[:6])
    assert np.abs(parts.sum(axis=(1, 2)) - scores).max() > 1e-3, "the control: biases count too"
    with torch.no_grad():
        for name, weight in scorer.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
    scores, parts = contributions(scorer, data, data.choices.pairs[:6])
    np.testing.assert_allclose(parts.sum(axis=(1, 2)), scores, rtol=1e-4, atol=1e-6)


def test_a_second_look_changes_the_order_of_the_first_answers_and_nothing_else() -> None:
    """Three queries over five answers, two looked at again: by hand."""
    candidates = np.array([[0, 1], [2, 3], [4, 0]])
    right = np.zeros((3, 5), bool)
    right[0, 1] = right[1, 2] = right[2, 3] = True  # second place, first place, not among them
    found = recalls_by_second_look(candidates, right, lambda query, answer: answer.astype(float))
    assert found["before"]["R@1"] == 1 / 3
    assert found["after"]["R@1"] == 1 / 3  # 1 before 0 is gained, 3 before 2 is lost
    assert found["before"]["R@5"] == found["after"]["R@5"] == 2 / 3
    blind = recalls_by_second_look(candidates, right, lambda query, answer: np.zeros(len(query)))
    assert blind["after"] == blind["before"], "equal scores leave the order that was"
