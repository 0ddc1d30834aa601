"""Choice sets against brute force: text, image and group accuracy, and a scorer that sees no image."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.project.errors import UsageError
from pipeline.relations.choice_sets import ChoiceSet, Question, blind_scores, choice_accuracy


def quadruples(count: int, task: str = "place") -> ChoiceSet:
    questions = []
    for g in range(count):
        a, b = f"{g} left of it", f"{g} right of it"
        questions += [Question(2 * g, a, (b,), task, str(g)), Question(2 * g + 1, b, (a,), task, str(g))]
    return ChoiceSet(tuple(questions))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 9999))
def test_accuracies_are_those_of_winograd_pairs_counted_by_hand(count: int, seed: int) -> None:
    choices = quadruples(count)
    score = np.random.default_rng(seed).normal(size=len(choices.pairs))
    table = {(int(i), choices.texts[t]): s for (i, t), s in zip(choices.pairs, score, strict=True)}
    text = image = group = 0
    for g in range(count):
        a, b = f"{g} left of it", f"{g} right of it"
        aa, ab, ba, bb = (table[2 * g + i, c] for i in (0, 1) for c in (a, b))
        right = [aa > ab, bb > ba, aa > ba, bb > ab]
        text, image, group = text + sum(right[:2]), image + sum(right[2:]), group + all(right)
    found = choice_accuracy(choices, score)
    assert found.text == pytest.approx(text / 2 / count)
    assert found.image == pytest.approx(image / 2 / count)
    assert found.group == pytest.approx(group / count)
    assert (found.text_chance, found.image_chance) == (0.5, 0.5)
    assert found.group_chance == pytest.approx(1 / 6)


def test_a_group_is_right_by_chance_once_in_six_orders() -> None:
    choices = quadruples(1)
    right = [choice_accuracy(choices, np.array(order, float)).group for order in permutations(range(4))]
    assert np.mean(np.array(right, float)) == pytest.approx(choice_accuracy(choices, np.arange(4.0)).group_chance)


@given(st.integers(1, 20), st.integers(0, 9999))
def test_a_scorer_that_sees_no_image_is_right_exactly_half_the_time(count: int, seed: int) -> None:
    choices = quadruples(count)
    unrelated = np.random.default_rng(seed).normal(size=(7, len(choices.texts)))
    found = choice_accuracy(choices, blind_scores(choices, unrelated))
    assert found.text == 0.5
    assert found.group == 0


def test_foils_that_read_oddly_are_found_out_by_the_blind_score() -> None:
    """The negative control: without a counterpart, a text-only scorer can be right every time."""
    choices = ChoiceSet(tuple(Question(i, f"dog {i}", (f"xq zj {i}",), "swap") for i in range(5)))
    odd = np.array([[-float(text.startswith("xq")) for text in choices.texts]])
    found = choice_accuracy(choices, blind_scores(choices, odd))
    assert (found.text, found.image, found.group) == (1.0, None, None)


def test_equal_scores_share_the_first_place() -> None:
    choices = ChoiceSet((Question(0, "a", ("b", "c"), "t"),))
    assert choice_accuracy(choices, np.zeros(3)).text == pytest.approx(1 / 3)


def test_each_task_counts_its_own_questions() -> None:
    choices = ChoiceSet((*quadruples(2).questions, Question(9, "one dog", ("two dogs", "no dog"), "count")))
    score = np.where(np.arange(len(choices.pairs)) == choices.candidates[-1][0], 5.0, 0.0)
    assert choice_accuracy(choices, score, "count").text == 1
    assert choice_accuracy(choices, score, "place").text == 0.5
    assert choice_accuracy(choices, score, "count").questions == 1
    assert choices.tasks == ("place", "count")


def test_foils_without_truth_are_one_line() -> None:
    with pytest.raises(UsageError, match="among its own foils"):
        ChoiceSet((Question(3, "a dog", ("a dog",), "t"),))
    with pytest.raises(UsageError, match="no foil for 'a dog'"):
        ChoiceSet((Question(3, "a dog", (), "t"),))
