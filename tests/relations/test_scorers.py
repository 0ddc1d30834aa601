"""Scorers against the formulas written out with loops, and what makes a score belong to its pair."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import pytest
import torch

from pipeline.relations.choice_sets import ChoiceSet, Question, choice_accuracy
from pipeline.relations.fitting import (
    fit_scorer,
    question_batch,
    score_all,
    score_pairs,
    symmetric_loss,
)
from pipeline.relations.params import ScorerParams, functional_rows
from pipeline.relations.scorers import (
    DcsmScorer,
    ImageTokens,
    LateScorer,
    PublishedDcsmScorer,
    Scorer,
    TextTokens,
    build_scorer,
)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


class DrawnTokens:
    """Tokens of images and texts as a choice set has them."""

    def __init__(self, images: ImageTokens, texts: TextTokens) -> None:
        self._images, self._texts = images, texts

    def images(self, rows: np.ndarray) -> ImageTokens:
        return self._images.take(torch.from_numpy(rows))

    def texts(self, rows: np.ndarray) -> TextTokens:
        return self._texts.take(torch.from_numpy(rows))


def drawn(n: int = 4, m: int = 3, p: int = 9, t: int = 5, d: int = 8) -> tuple[ImageTokens, TextTokens]:
    torch.manual_seed(n + m)
    valid = torch.arange(t)[None] < torch.tensor([t, *([t - 1] * (m - 1))])[:, None]
    words = unit(torch.randn(m, t, d)) * valid[..., None]
    rows = torch.full((m, t), -1)
    rows[0, 2] = 1
    return (
        ImageTokens(torch.randn(n, d), unit(torch.randn(n, p, d))),
        TextTokens(torch.randn(m, d), words, valid, rows),
    )


def test_the_published_scorer_is_the_formula_written_out_with_loops() -> None:
    images, texts = drawn(1, 1, p=6, t=5)
    scorer = PublishedDcsmScorer(6, 5, 2, seed=3)
    scorer.get_buffer("units").copy_(torch.tensor([0.1, 0.4]))
    rows, d = scorer.get_buffer("rows"), 8
    z = np.zeros((6, 5))
    for i in range(6):
        for j in range(5):
            dot = sum(float(images.patches[0, i, k] * texts.words[0, j, k]) for k in range(d))
            z[i, j] = ((float(rows[1, i]) if j == 2 else dot) - 0.1) / 0.4
    h = _conv(_conv(z[None], scorer.first), scorer.second)
    flat = h.ravel()
    w = {name: weight.detach().double().numpy() for name, weight in scorer.head.named_parameters()}
    hidden = np.maximum(w["0.weight"] @ flat + w["0.bias"], 0)
    expected = (w["2.weight"] @ hidden + w["2.bias"])[0]
    assert scorer(images, texts).item() == pytest.approx(expected, abs=1e-5)


def _conv(x: np.ndarray, layer: torch.nn.Conv2d) -> np.ndarray:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()  # type: ignore[union-attr]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for o in range(len(weight)):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                out[o, i, j] = (weight[o] * padded[:, i : i + 3, j : j + 3]).sum() + bias[o]
    return np.maximum(out, 0)


def test_the_published_scorer_has_the_published_number_of_parameters() -> None:
    scorer = PublishedDcsmScorer(197, 30, 11)
    assert sum(parameter.numel() for parameter in scorer.parameters()) == 3_026_365
    matrix = cast(Any, scorer).head[0].weight.numel()
    assert matrix / 3_026_365 > 0.999


def test_the_two_dimensional_scorer_has_a_tenth_of_them() -> None:
    scorer = DcsmScorer(8, 14, 11)
    assert sum(parameter.numel() for parameter in scorer.parameters()) == 315_553


@pytest.mark.parametrize("kind", ["cosine", "late", "labclip", "dcsm", "dcsm-published"])
def test_a_score_belongs_to_its_pair(kind: Any) -> None:
    images, texts = drawn(4, 4)
    scorer = build_scorer(ScorerParams(kind=kind, columns=5), 8, 9)
    scorer.fit_units(images, texts)
    together = scorer(images, texts)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(scorer(images.take(order), texts.take(order)), together[order])
    alone = torch.stack([scorer(images.take(row), texts.take(row))[0] for row in torch.arange(4)[:, None]])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_the_published_standardization_is_of_the_batch_and_so_is_its_score() -> None:
    """The control of the test above: mean and deviation of the call, as in the authors' code."""
    images, texts = drawn(4, 4)
    scorer = build_scorer(ScorerParams(kind="dcsm-published", columns=5), 8, 9)

    def published(rows: torch.Tensor) -> torch.Tensor:
        scorer.fit_units(images.take(rows), texts.take(rows))
        return scorer(images.take(rows), texts.take(rows))[0]

    assert abs((published(torch.tensor([0])) - published(torch.arange(4))).item()) > 1e-4


def test_what_stands_behind_the_end_of_text_changes_no_score() -> None:
    images, texts = drawn(2, 2)
    noisy = texts.words + torch.randn_like(texts.words) * ~texts.valid[..., None]
    other = TextTokens(texts.pooled, noisy, texts.valid, texts.functional_row)
    for kind in ("late", "dcsm", "dcsm-published"):
        scorer = build_scorer(ScorerParams(kind=kind, columns=5), 8, 9)
        torch.testing.assert_close(scorer(images, texts), scorer(images, other))


def test_late_interaction_is_the_mean_of_each_words_best_patch() -> None:
    images, texts = drawn(2, 2)
    expected = [
        np.mean([max(float(texts.words[i, j] @ p) for p in images.patches[i]) for j in range(5) if texts.valid[i, j]])
        for i in range(2)
    ]
    np.testing.assert_allclose(LateScorer()(images, texts).numpy(), expected, atol=1e-6)


def test_labclip_begins_as_plain_cosine() -> None:
    images, texts = drawn(3, 3)
    plain, learnt = (build_scorer(ScorerParams(kind=kind), 8, 9) for kind in ("cosine", "labclip"))
    torch.testing.assert_close(learnt(images, texts), 20 * plain(images, texts))


def test_a_functional_row_stands_in_the_words_own_column() -> None:
    """`A picture of a cat above a dog`: begin of text, then a token a word, but `picture` takes two here."""
    words = np.array([[-1, 0, 1, 1, 2, 3, 4, 5, 6, 7, -1]])
    captions = ["A picture of a cat above a dog"]
    own = functional_rows(captions, words, "word")
    published = functional_rows(captions, words, "published")
    assert np.flatnonzero(own[0] >= 0).tolist() == [7]
    assert words[0, 7] == 5, "the token of `above`"
    assert np.flatnonzero(published[0] >= 0).tolist() == [5], "the token of `a`: two to the left"
    assert (functional_rows(captions, words, "none") == -1).all()
    # Of a truncated caption whose word is in no column, the other columns are left alone.
    assert (functional_rows(captions, words[:, [0, 1, 2, 3, 10]], "published") == -1).all()
    assert (functional_rows(captions, words[:, [0, 1, 2, 3, 10]], "word") == -1).all()


class Quadrants:
    """Images with a thing in one of four places; captions that name thing and place: only a map can tell them."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.things = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0].astype(np.float32)
        self.truth, questions = [], []
        for g in range(count):
            thing, other = rng.choice(6, 2, replace=False)
            names = f"{thing} left {other}", f"{other} left {thing}"
            for k, pair in enumerate(((thing, other), (other, thing))):
                self.truth.append(pair)
                questions.append(Question(2 * g + k, names[k], (names[1 - k],), "place", str(g)))
        self.choices = ChoiceSet(tuple(questions))

    def images(self, rows: np.ndarray) -> ImageTokens:
        patches = np.zeros((len(rows), 16, 16), np.float32) + self.things[8]
        for i, row in enumerate(rows):
            left, right = self.truth[row]
            patches[i, [4, 8]], patches[i, [7, 11]] = self.things[left], self.things[right]
        tokens = torch.from_numpy(patches)
        return ImageTokens(tokens.mean(dim=1), tokens)

    def texts(self, rows: np.ndarray) -> TextTokens:
        read = [self.choices.texts[row].split() for row in rows]
        words = np.stack([[self.things[int(a)], self.things[9], self.things[int(b)]] for a, _, b in read])
        tokens = torch.from_numpy(words)
        return TextTokens(
            tokens.mean(dim=1), tokens, torch.ones(tokens.shape[:2]).bool(), torch.full(tokens.shape[:2], -1)
        )


def test_a_map_tells_left_from_right_and_a_pooled_vector_cannot() -> None:
    train, val = Quadrants(150, 1), Quadrants(40, 2)
    accuracy = {}
    for kind in ("dcsm", "labclip"):
        params = ScorerParams(kind=kind, columns=3, epochs=4, learning_rate=2e-3)
        scorer = build_scorer(params, 16, 16)
        fit_scorer(scorer, train.choices, train, params)
        accuracy[kind] = choice_accuracy(val.choices, score_pairs(scorer, val, val.choices.pairs)).text
    assert accuracy["dcsm"] > 0.95
    assert accuracy["labclip"] < 0.6


def test_a_fit_is_the_same_twice_and_another_seed_is_another() -> None:
    def weights(seed: int) -> bytes:
        train = Quadrants(8, 1)
        params = ScorerParams(kind="dcsm", columns=3, epochs=1, seed=seed)
        scorer: Scorer = build_scorer(params, 16, 16)
        fit_scorer(scorer, train.choices, train, params)
        return b"".join(tensor.numpy().tobytes() for tensor in scorer.state_dict().values())

    assert weights(0) == weights(0) != weights(1)


def test_the_loss_counts_a_foil_as_a_negative_and_asks_nothing_of_it() -> None:
    scores = torch.tensor([[1.0, 0.5, -0.3], [0.2, 2.0, 0.1]])
    truth = torch.tensor([[True, False, False], [False, True, False]])
    e = np.exp(scores.numpy())
    rows = -np.mean([np.log(e[0, 0] / e[0].sum()), np.log(e[1, 1] / e[1].sum())])
    columns = -np.mean([np.log(e[0, 0] / e[:, 0].sum()), np.log(e[1, 1] / e[:, 1].sum())])
    assert symmetric_loss(scores, truth).item() == pytest.approx((rows + columns) / 2, abs=1e-6)


def test_every_image_of_a_step_meets_every_text_of_it() -> None:
    train = Quadrants(2, 4)
    step = question_batch(train.choices, [[0, 1], [2, 3]])
    scorer = build_scorer(ScorerParams(kind="late"), 16, 16)
    scores = score_all(scorer, train, step)
    assert scores.shape == (4, len(step.texts))
    again = score_pairs(scorer, train, np.array([[step.images[1], step.texts[0]]]))
    assert scores[1, 0].item() == pytest.approx(float(again[0]), abs=1e-6)
    assert step.truth.sum(axis=1).tolist() == [1, 1, 1, 1]


def test_with_negatives_of_its_own_group_a_step_is_the_mean_of_its_groups() -> None:
    train, scorer = Quadrants(2, 5), build_scorer(ScorerParams(kind="dcsm", columns=3), 16, 16)

    def loss(groups: list[list[int]], negatives: Literal["batch", "group"]) -> torch.Tensor:
        step = question_batch(train.choices, groups, negatives)
        return symmetric_loss(score_all(scorer, train, step), torch.from_numpy(step.truth))

    def gradient(value: torch.Tensor) -> torch.Tensor:
        scorer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch does not say its type
        return torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])

    alone = [loss([group], "batch") for group in ([0, 1], [2, 3])]
    together = loss([[0, 1], [2, 3]], "group")
    assert together.item() == pytest.approx((alone[0].item() + alone[1].item()) / 2, abs=1e-6)
    torch.testing.assert_close(gradient(together), (gradient(alone[0]) + gradient(alone[1])) / 2)
    # The control: with all texts of the step as negatives it is another loss.
    assert abs(loss([[0, 1], [2, 3]], "batch").item() - together.item()) > 0.1
    assert "negatives" not in ScorerParams(kind="dcsm").model_dump(mode="json")
