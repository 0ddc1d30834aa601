"""Exact choices of the drawn world with a teacher's tokens, and the accuracy of scorers on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from pipeline.data.synthetic.relations import TASKS, RelationScene, draw_relation
from pipeline.relations.choice_sets import ChoiceSet, Question, choice_accuracy
from pipeline.relations.fitting import score_pairs
from pipeline.relations.params import ScorerParams, functional_rows
from pipeline.relations.scorers import Scorer
from pipeline.relations.token_arrays import TokenArrays, pad_words
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.tokens import TokenReader, token_reader, words_of_tokens

COLUMNS = 16
"""Words of a caption that a scorer sees."""
BATCH = 128


@dataclass(frozen=True)
class World:
    """Tasks, and what draws scene `number` of a part: (part, number, seed) -> a picture and its scene."""

    tasks: tuple[str, ...]
    draw: Callable[[str, int, int], tuple[UInt8[np.ndarray, "64 64 3"], RelationScene]]


WORLD = World(TASKS, draw_relation)
"""The one of the sample."""


@dataclass(frozen=True)
class RelationSet:
    """Questions of one part with their tokens."""

    choices: ChoiceSet
    tokens: TokenArrays
    words_of_tokens: np.ndarray
    pixels: UInt8[np.ndarray, "n 64 64 3"]

    def with_params(self, params: ScorerParams) -> TokenArrays:
        """Return the tokens as a scorer's parameters want them."""
        rows = functional_rows(
            self.choices.texts, self.words_of_tokens, params.functional_column, params.functional_words
        )
        return replace(self.tokens, functional_row=rows, shuffled=params.shuffle_patches)

    def of_tasks(self, tasks: Sequence[str]) -> RelationSet:
        """Return the questions of some tasks; images keep their rows."""
        choices = ChoiceSet(tuple(question for question in self.choices.questions if question.task in tasks))
        row = {text: i for i, text in enumerate(self.choices.texts)}
        rows = np.array([row[text] for text in choices.texts])
        texts = {name: getattr(self.tokens, name)[rows] for name in ("text_pooled", "words", "valid", "functional_row")}
        return RelationSet(choices, replace(self.tokens, **texts), self.words_of_tokens[rows], self.pixels)


def accuracy_by_task(scorers: Mapping[str, Scorer], part: RelationSet, params: ScorerParams) -> dict[str, list[float]]:
    """Return text and group accuracy of each task by its scorer."""
    found = {}
    for task, scorer in scorers.items():
        own = part.of_tasks([task])
        accuracy = choice_accuracy(own.choices, score_pairs(scorer, own.with_params(params), own.choices.pairs), task)
        found[task] = [accuracy.text, accuracy.group or 0.0]
    return found


@dataclass(frozen=True)
class SetSizes:
    """Quadruples of each task: to fit on, and in each of the two held-out parts."""

    fitted: int
    held_out: int


def read_sets(reader: TokenReader, sizes: SetSizes, seed: int, world: World = WORLD) -> dict[str, RelationSet]:
    """Draw the three parts of a world and embed them."""
    parts = {"relations-train": sizes.fitted, "relations-val": sizes.held_out, "relations-unseen": sizes.held_out}
    return {part: _read(reader, part, 2 * len(world.tasks) * count, seed, world) for part, count in parts.items()}


def open_reader(teacher: str, grid: int) -> TokenReader:
    """Load a teacher and return what reads its tokens."""
    return token_reader(load_teacher(TeacherParams(model=teacher), "cpu"), grid)


def _read(reader: TokenReader, part: str, count: int, seed: int, world: World) -> RelationSet:
    shown, pooled, patches, questions = [], [], [], []
    for start in range(0, count, BATCH):
        scenes = [world.draw(part, number, seed) for number in range(start, min(start + BATCH, count))]
        pixels = np.stack([image for image, _ in scenes])
        shown.append(pixels)
        pooled.append(reader.teacher.embed_images(pixels))
        patches.append(reader.embed_patches(pixels).astype(np.float16))
        questions += [Question(start + i, s.caption, (s.foil,), s.task, s.group) for i, (_, s) in enumerate(scenes)]
    choices = ChoiceSet(tuple(questions))
    ids = reader.teacher.tokenize(choices.texts)
    words, lengths = reader.embed_words(ids)
    padded, valid = pad_words(words.astype(np.float16), np.cumsum([0, *lengths]), COLUMNS)
    numbers = np.full(valid.shape, -1, np.int64)
    numbers[valid] = np.concatenate(words_of_tokens(reader.teacher, choices.texts, ids))
    tokens = TokenArrays(
        np.concatenate(pooled), np.concatenate(patches), reader.teacher.embed_tokens(ids), padded, valid, numbers
    )
    return RelationSet(choices, tokens, numbers, np.concatenate(shown))
