"""Fit a scorer on the questions of a choice set, and score pairs with it, from cached tokens alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.errors import PipelineError
from pipeline.project.progress import progress
from pipeline.relations.choice_sets import ChoiceSet
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import ImageTokens, Scorer, TextTokens
from pipeline.students.training.state import TrainState, load_state, save_state

UNIT_QUESTIONS = 256
"""Number of true pairs from which a scorer takes the mean and deviation of its maps."""
SCORED_PAIRS = 512
"""Batch size of pairs in inference."""


class TokenSource(Protocol):
    """Tokens of the images and texts of a choice set, by row."""

    def images(self, rows: Int[np.ndarray, " b"]) -> ImageTokens:
        """Return the tokens of some images."""

    def texts(self, rows: Int[np.ndarray, " b"]) -> TextTokens:
        """Return the tokens of some texts."""


def fit_scorer(
    scorer: Scorer,
    choices: ChoiceSet,
    tokens: TokenSource,
    params: ScorerParams,
    *,
    state: Path | None = None,
    title: str = "relate",
) -> list[tuple[int, float]]:
    """Fit a scorer in place and return the mean loss of each epoch.

    Symmetric cross-entropy over all images and texts of a step, or within each group of it; Adam; a half-cosine
    schedule. After each epoch the complete state is saved to the file `state`, from which an interrupted fit resumes.

    Raises:
        PipelineError: the loss is NaN or infinite.
    """
    units = question_groups(choices)
    optimizer = torch.optim.Adam(scorer.parameters(), params.learning_rate)
    training = TrainState({"scorer": scorer}, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    resumed = load_state(state, training) if state else None
    history = [(int(epoch), float(loss)) for epoch, loss in resumed["history"]] if resumed else []
    if not history:
        scorer.fit_units(*true_pairs(choices, tokens, np.array([i for unit in units for i in unit][:UNIT_QUESTIONS])))
    steps = -(-len(units) // params.groups)
    with progress(title, (params.epochs - len(history)) * steps, "steps") as advance:
        for epoch in range(len(history), params.epochs):
            losses = []
            for loss in _fit_epoch(training, tokens, params, _batches(choices, params, epoch), epoch * steps):
                losses.append(loss)
                advance(1, f"loss {loss:.3f}")
            if not math.isfinite(mean := float(np.mean(losses))):
                raise PipelineError(f"{title}: the loss is {mean} in epoch {epoch + 1}: lower its learning_rate")
            history.append((epoch + 1, mean))
            if state:
                save_state(state, training, {"history": history})
    return history


def _fit_epoch(
    training: TrainState, tokens: TokenSource, params: ScorerParams, batches: Sequence[QuestionBatch], first: int
) -> Iterator[float]:
    """Take one step per batch, and yield its loss; `first` is the number of the first step."""
    scorer = training.modules["scorer"]
    for step, batch in enumerate(batches, start=first):
        for group in training.optimizer.param_groups:
            group["lr"] = params.learning_rate * (1 + math.cos(math.pi * step / (params.epochs * len(batches)))) / 2
        training.optimizer.zero_grad()
        loss = symmetric_loss(score_all(scorer, tokens, batch), torch.from_numpy(batch.truth))
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        yield loss.item()


def _batches(choices: ChoiceSet, params: ScorerParams, epoch: int) -> list[QuestionBatch]:
    """Return the batches of an epoch: whole groups, in an order that depends on seed and epoch only."""
    units = question_groups(choices)
    order = np.random.default_rng([params.seed, epoch]).permutation(len(units))
    steps = [order[start : start + params.groups] for start in range(0, len(order), params.groups)]
    return [question_batch(choices, [units[unit] for unit in step], params.negatives) for step in steps]


@dataclass(frozen=True)
class QuestionBatch:
    """Images and texts of some questions, the true pairs, and the pairs to score."""

    images: Int[np.ndarray, " b"]
    texts: Int[np.ndarray, " m"]
    truth: Bool[np.ndarray, "b m"]
    compared: Bool[np.ndarray, "b m"]


def question_groups(choices: ChoiceSet) -> list[list[int]]:
    """Return the questions by group; one without a group is its own."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, question in enumerate(choices.questions):
        groups.setdefault((question.task, question.group) if question.group else ("", "", str(i)), []).append(i)
    return list(groups.values())


def question_batch(
    choices: ChoiceSet, groups: Sequence[Sequence[int]], negatives: Literal["batch", "group"] = "batch"
) -> QuestionBatch:
    """Return the distinct images and texts of some groups of questions.

    Texts of another group are easy negatives, and sometimes true of the image. `group` excludes them: with g groups of
    two images and two texts it scores 4g pairs instead of 4g².
    """
    rows = [row for group in groups for row in group]
    images = list(dict.fromkeys(choices.questions[row].image for row in rows))
    pairs = {row: choices.pairs[choices.candidates[row]] for row in rows}
    texts = list(dict.fromkeys(int(text) for block in pairs.values() for _, text in block))
    image_at, text_at = ({name: i for i, name in enumerate(names)} for names in (images, texts))
    truth = np.zeros((len(images), len(texts)), bool)
    for block in pairs.values():
        truth[image_at[int(block[0][0])], text_at[int(block[0][1])]] = True
    compared = np.full(truth.shape, negatives == "batch")
    for group in groups:
        own = [text_at[int(text)] for row in group for _, text in pairs[row]]
        compared[np.ix_([image_at[choices.questions[row].image] for row in group], own)] = True
    return QuestionBatch(np.array(images), np.array(texts), truth, compared)


def score_all(scorer: nn.Module, tokens: TokenSource, step: QuestionBatch) -> Float[Tensor, "b m"]:
    """Return the score of every image of a step with every text to score; −∞ for the other pairs."""
    images, texts = tokens.images(step.images), tokens.texts(step.texts)
    i, j = torch.from_numpy(step.compared).nonzero(as_tuple=True)
    scores = torch.full(step.compared.shape, -math.inf)
    return scores.index_put((i, j), scorer(images.take(i), texts.take(j)))


def symmetric_loss(scores: Float[Tensor, "b m"], truth: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Return −½ mean log Σ_true softmax over texts, and over images for texts that have a true one.

    A foil without an image is a negative for images only.
    """
    return (_cross_entropy(scores, truth) + _cross_entropy(scores.T, truth.T)) / 2


def _cross_entropy(scores: Float[Tensor, "b m"], truth: Bool[Tensor, "b m"]) -> Float[Tensor, ""]:
    rows = truth.any(dim=1)
    logs = functional.log_softmax(scores[rows], dim=1).masked_fill(~truth[rows], -math.inf)
    return -logs.logsumexp(dim=1).mean()


def true_pairs(choices: ChoiceSet, tokens: TokenSource, rows: Int[np.ndarray, " q"]) -> tuple[ImageTokens, TextTokens]:
    """Return images and true captions of some questions, row by row."""
    pairs = np.array([choices.pairs[choices.candidates[row][0]] for row in rows])
    return tokens.images(pairs[:, 0]), tokens.texts(pairs[:, 1])


@torch.inference_mode()
def score_pairs(
    scorer: Scorer, tokens: TokenSource, pairs: Int[np.ndarray, "q 2"], advance: Callable[[int], None] = lambda _: None
) -> Float[np.ndarray, " q"]:
    """Return the score of each (image, text) pair."""
    scorer.eval()
    scores = np.empty(len(pairs), np.float32)
    for rows in _blocks(len(pairs), SCORED_PAIRS):
        block = pairs[rows]
        images, image_of = np.unique(block[:, 0], return_inverse=True)
        texts, text_of = np.unique(block[:, 1], return_inverse=True)
        image_tokens, read = tokens.images(images), tokens.texts(texts)
        scores[rows] = scorer(
            image_tokens.take(torch.from_numpy(image_of)), read.take(torch.from_numpy(text_of))
        ).numpy()
        advance(len(block))
    return scores


@torch.inference_mode()
def score_captions(
    scorer: Scorer, pooled: Float[np.ndarray, "1 d"], patches: Float[np.ndarray, "1 p d"], texts: TextTokens
) -> list[float]:
    """Return the score of one image with each of some captions."""
    image = ImageTokens(torch.from_numpy(pooled), torch.from_numpy(patches))
    scores: list[float] = scorer(image.take(torch.zeros(len(texts.pooled), dtype=torch.long)), texts).tolist()
    return scores


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
