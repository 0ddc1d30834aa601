"""Accuracy on choice sets in `evaluate`, under every rule and scorer, for the student and its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables
from pipeline.evaluation.scoring_rules import score_vectors
from pipeline.project.device import choose_device
from pipeline.project.errors import UsageError
from pipeline.project.params import parse
from pipeline.relations.cached_tokens import CachedTokens, StudentTokens
from pipeline.relations.choice_sets import ChoiceSet, blind_scores, choice_accuracy
from pipeline.relations.params import ScorerParams
from pipeline.relations.score_files import CARD, read_scores
from pipeline.relations.scorer_files import load_scorer, load_students_scorer
from pipeline.relations.scorers import Scorer
from pipeline.relations.scoring import UNRELATED, embed_split_places, open_tokens, score_set
from pipeline.relations.word_maps import map_table
from pipeline.students.checkpoint import load_student
from pipeline.students.model import Student

ACCURACIES = ("text", "image", "group")


@dataclass(frozen=True)
class OpenedScorer:
    """A scorer of the teacher's tokens, the one fitted on the student's own if there is one, and their inputs."""

    name: str
    scorer: Scorer
    own: Scorer | None
    params: ScorerParams
    grid: int
    """Side of the token grid; 0 for scorers of pooled vectors."""


@dataclass(frozen=True)
class StudentScorers:
    """A student, and the scorers of `evaluate.scorers`."""

    inputs: EvaluationInputs

    @cached_property
    def student(self) -> Student:
        """Return the student of the folder."""
        return load_student(self.inputs.folder, choose_device(self.inputs.runtime.device))

    def scorers(self) -> Iterator[OpenedScorer]:
        """Yield each scorer.

        Raises:
            UsageError: a scorer belongs to another teacher.
            MissingError, DamagedError, StaleError: a scorer is not fitted, damaged or of another student.
        """
        for name in self.inputs.params.scorers:
            scorer, card = load_scorer(self.inputs.layout.scorer(name))
            if card["teacher"] != self.student.card["teacher"]:
                raise UsageError(
                    f"evaluate.scorers: '{name}' is fitted on {card['teacher'].get('model')}, and {self.inputs.folder} "
                    "learnt from another teacher"
                )
            own = load_students_scorer(self.inputs.folder, name, str(self.student.card["weights_sha256"]))
            params = parse(card["params"], f"{CARD}: params", ScorerParams)
            yield OpenedScorer(name, scorer, own[0] if own else None, params, math.isqrt(int(card["patches"])))

    def tokens(self, cached: CachedTokens, split: str, grid: int) -> StudentTokens:
        """Return the student's tokens of a split on a grid."""
        return StudentTokens(
            cached, *embed_split_places(self.student, split, grid, self.inputs.layout, self.inputs.runtime)
        )


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score each choice set: `<set>/<task>/<rule or scorer>` has accuracies of student and teacher, and chance.

    `student` of a scorer is the teacher's scorer on the student's tokens; `own`, if `relate --student` has fitted one,
    is that scorer on the student's tokens. `blind` is text accuracy with unrelated images. The table `<set>-maps` has
    the contribution of each word at each position, for one question per task.
    """
    scorers, metrics, tables = StudentScorers(inputs), {}, {}
    for split in inputs.choice_sets:
        plain = open_tokens(split, ScorerParams(kind="cosine"), inputs.layout, inputs.runtime)
        by_task: dict[str, Any] = {task: {} for task in plain.choices.tasks}
        for rule in inputs.rules:
            for task, entry in _by_rule(rule, plain, scorers, split).items():
                by_task[task][rule] = entry
        for opened in scorers.scorers():
            cached = open_tokens(split, opened.params, inputs.layout, inputs.runtime)
            tokens = scorers.tokens(cached, split, opened.grid)
            for task, entry in _by_scorer(opened, cached, tokens, inputs, split).items():
                by_task[task][opened.name] = entry
            if (maps := map_table(opened.own or opened.scorer, opened.scorer, cached, tokens)) is not None:
                tables[f"{split}-maps"] = maps
        metrics[split] = by_task
    return metrics, tables


def _by_rule(rule: str, plain: CachedTokens, scorers: StudentScorers, split: str) -> dict[str, Any]:
    choices, spaces = plain.choices, scorers.inputs.spaces
    text = plain.texts(np.arange(len(choices.texts))).pooled.numpy()
    rows = {"student": scorers.tokens(plain, split, 0).pooled, "ceiling": plain.store.image().load()}
    scores = {who: _rule_scores(rule, image, text, choices, spaces) for who, image in rows.items()}
    return {
        task: _entry(
            {who: asdict(choice_accuracy(choices, pairs, task)) for who, (pairs, _) in scores.items()},
            {who: choice_accuracy(choices, blind, task).text for who, (_, blind) in scores.items()},
        )
        for task in choices.tasks
    }


def _rule_scores(
    rule: str, image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "m d"], choices: ChoiceSet, spaces: Any
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Return the score of each pair under a rule, and the blind score: of its text with unrelated images."""
    images, texts = score_vectors(rule, image, text, spaces)
    pairs = np.einsum("qd,qd->q", images[choices.pairs[:, 0]], texts[choices.pairs[:, 1]])
    spread = np.unique(np.linspace(0, len(images) - 1, UNRELATED).astype(np.int64))
    return pairs, blind_scores(choices, images[spread] @ texts.T)


def _by_scorer(
    opened: OpenedScorer, cached: CachedTokens, tokens: StudentTokens, inputs: EvaluationInputs, split: str
) -> dict[str, Any]:
    """Return the entries of a scorer; those of the teacher come from the results of `relate` if it scored this set."""
    teacher_scores = (read_scores(inputs.layout.scorer(opened.name)) or {}).get("sets", {})
    scores = {
        "student": score_set(opened.scorer, tokens),
        "ceiling": teacher_scores.get(split) or score_set(opened.scorer, cached),
        **({"own": score_set(opened.own, tokens)} if opened.own else {}),
    }
    return {
        task: _entry(
            {who: tasks[task]["scorer"] for who, tasks in scores.items()},
            {who: tasks[task]["blind"] for who, tasks in scores.items()},
        )
        for task in cached.choices.tasks
    }


def _entry(accuracies: dict[str, dict[str, Any]], blind: dict[str, float]) -> dict[str, Any]:
    first = next(iter(accuracies.values()))
    return {
        **{who: {name: accuracy[name] for name in ACCURACIES} for who, accuracy in accuracies.items()},
        "chance": {name: first[f"{name}_chance"] for name in ACCURACIES},
        "blind": blind,
        "questions": first["questions"],
    }
