"""Choice sets: choose the true caption of an image, and the image for which a caption is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from pipeline.data.packing.packed import PackedSplit
from pipeline.project.errors import UsageError


@dataclass(frozen=True)
class Question:
    """An image, its true caption, and false ones."""

    image: int
    caption: str
    foils: tuple[str, ...]
    task: str
    group: str = ""
    """Images of the questions of one group are counterparts of each other; empty if there is none."""


@dataclass(frozen=True)
class ChoiceSet:
    """Questions over some images, with distinct texts."""

    questions: tuple[Question, ...]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Return the distinct captions and foils, in order of first appearance."""
        return tuple(dict.fromkeys(text for q in self.questions for text in (q.caption, *q.foils)))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks, in the order of their first question."""
        return tuple(dict.fromkeys(question.task for question in self.questions))

    @cached_property
    def pairs(self) -> Int[np.ndarray, "q 2"]:
        """Return the distinct (image, text) pairs of all candidates, the true one of each question first."""
        number = {text: i for i, text in enumerate(self.texts)}
        pairs = dict.fromkeys((q.image, number[text]) for q in self.questions for text in (q.caption, *q.foils))
        return np.array(list(pairs), np.int64).reshape(-1, 2)

    @cached_property
    def candidates(self) -> tuple[Int[np.ndarray, " k"], ...]:
        """Return, for each question, the rows of `pairs` of its candidates, the true one first."""
        row = {(int(image), int(text)): i for i, (image, text) in enumerate(self.pairs)}
        number = {text: i for i, text in enumerate(self.texts)}
        return tuple(np.array([row[q.image, number[t]] for t in (q.caption, *q.foils)]) for q in self.questions)

    @cached_property
    def counterparts(self) -> tuple[Int[np.ndarray, " k"], ...]:
        """Return, for each question, the pairs of its caption with those images of its group for which it is false.

        Only images that have the caption among their foils count; for others it is unknown whether it is true.
        """
        number = {text: i for i, text in enumerate(self.texts)}
        row = {(int(image), int(text)): i for i, (image, text) in enumerate(self.pairs)}
        groups: dict[tuple[str, str], list[Question]] = {}
        for question in self.questions:
            groups.setdefault((question.task, question.group), []).append(question)
        pairs = []
        for q in self.questions:
            partners = groups[q.task, q.group] if q.group else []
            others = {p.image for p in partners if p.image != q.image and q.caption in p.foils}
            pairs.append(np.array([row[image, number[q.caption]] for image in sorted(others)], np.int64))
        return tuple(pairs)

    def __post_init__(self) -> None:
        for question in self.questions:
            if not question.foils:
                raise UsageError(f"choice set: image {question.image} has no foil for {question.caption!r}")
            if question.caption in question.foils:
                raise UsageError(
                    f"choice set: {question.caption!r} stands among its own foils (image {question.image})"
                )


def read_choices(packed: PackedSplit, verify: Literal["hash", "size"] = "hash") -> ChoiceSet:
    """Return the questions of a packed choice set; images are numbered in the order of the shards.

    Raises:
        UsageError: the split has no choices.
        DamagedError: a shard changed since it was packed.
    """
    questions = []
    samples = (sample for number in range(len(packed.shards)) for sample in packed.read(number, verify))
    for image, sample in enumerate(samples):
        questions += [Question(image, c.caption, c.foils, c.task, c.group) for c in sample.choices]
    if not questions:
        raise UsageError(
            f"{packed.folder}: no choice set: its images have captions, but no foils. Name one in relate.train and "
            "relate.sets (docs/dense.md says how they are made)"
        )
    return ChoiceSet(tuple(questions))


@dataclass(frozen=True)
class ChoiceAccuracy:
    """Accuracy of choosing the true caption, the right image, and all of a group, with chance."""

    questions: int
    text: float
    text_chance: float
    image: float | None = None
    image_chance: float | None = None
    group: float | None = None
    group_chance: float | None = None


def choice_accuracy(choices: ChoiceSet, scores: Float[np.ndarray, " q"], task: str | None = None) -> ChoiceAccuracy:
    """Return the accuracies of scores, one per row of `choices.pairs`, over all questions or those of a task.

    Text: the true caption has the highest score among its question's. Image: it has its highest score at its own image,
    among the group's. Group: every text and image question of a group is right (Thrush et al., 2022). A tie of k best
    scores counts 1/k; in a group it counts as wrong. Image and group are None if no image has a counterpart.

    A group of two images and two captions is right by chance with probability 1/6: of the 4! orders of its four scores,
    four rank both true pairs above both others.
    """
    rows = [i for i, q in enumerate(choices.questions) if task in (None, q.task)]
    text = [_first_place(scores, choices.candidates[i]) for i in rows]
    counterparts = [np.array([choices.candidates[i][0], *choices.counterparts[i]]) for i in rows]
    paired = [pairs for pairs in counterparts if len(pairs) > 1]
    text_chance = float(np.mean([1 / len(choices.candidates[i]) for i in rows])) if rows else 0.0
    if not paired:
        return ChoiceAccuracy(len(rows), float(np.mean(text)) if rows else 0.0, text_chance)
    groups = _groups(choices, rows)
    right = {
        i: t == 1 and _first_place(scores, pairs) == 1 for i, t, pairs in zip(rows, text, counterparts, strict=True)
    }
    return ChoiceAccuracy(
        len(rows),
        float(np.mean(text)),
        text_chance,
        float(np.mean([_first_place(scores, pairs) for pairs in paired])),
        float(np.mean([1 / len(pairs) for pairs in paired])),
        float(np.mean([all(right[i] for i in members) for members in groups])),
        _group_chance(choices, groups),
    )


def blind_scores(choices: ChoiceSet, scores: Float[np.ndarray, "r m"]) -> Float[np.ndarray, " q"]:
    """Return, for each pair, the mean score of its text over r unrelated images.

    It measures what a scorer gets from the caption alone. In quadruples its accuracy is exactly one half, because each
    caption is the true one once; it reveals foils that are detectable by their wording.
    """
    return np.asarray(scores.mean(axis=0)[choices.pairs[:, 1]])


def _first_place(scores: Float[np.ndarray, " q"], rows: Int[np.ndarray, " k"]) -> float:
    values = scores[rows]
    return float(values[0] == values.max()) / int((values == values.max()).sum())


def _groups(choices: ChoiceSet, rows: Sequence[int]) -> list[list[int]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for i in rows:
        if choices.questions[i].group:
            groups.setdefault((choices.questions[i].task, choices.questions[i].group), []).append(i)
    return list(groups.values())


def _group_chance(choices: ChoiceSet, groups: Sequence[Sequence[int]]) -> float | None:
    """Return 1/6 if every group is two images with one caption each; otherwise there is no closed form here."""
    quadruples = all(
        len(members) == 2
        and all(len(choices.candidates[i]) == 2 and len(choices.counterparts[i]) == 1 for i in members)
        for members in groups
    )
    return 1 / 6 if quadruples else None
