"""Metrics of a student of several teachers, per head: each part of its embedding next to its own teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.ensemble import EnsembleStore
from cache.teachers import ENSEMBLE, teacher_names, widths
from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables, SplitEmbeddings
from pipeline.evaluation.metrics import agreement, retrieval, zero_shot
from pipeline.evaluation.scoring_rules import EnsembleSpaces, ReferenceSpaces, available_rules, reference_spaces
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.moments_file import StoredMoments

MEMBER_METRICS: dict[str, Callable[[EvaluationInputs], MetricsAndTables]] = {
    "zero_shot": zero_shot.score,
    "agreement": agreement.score,
    "retrieval": retrieval.score,
}
"""Metrics of each head; retrieval only if its teacher embeds the captions of val."""


def ensemble_spaces(
    joint: ReferenceSpaces, teacher: Mapping[str, Any], stored: StoredMoments, floor: float
) -> ReferenceSpaces:
    """Return the reference spaces of an ensemble: those of its members, whose scores are averaged.

    Raises:
        StaleError: a member was not measured.
        UsageError: it was not measured on unit rows.
    """
    members = [reference_spaces(moments, floor) for moments in _member_moments(teacher, stored)]
    return EnsembleSpaces(joint, members, teacher) if members else joint


def score_members(
    inputs: EvaluationInputs, teacher: Mapping[str, Any], stored: StoredMoments, folder: Path
) -> dict[str, Any]:
    """Return the metrics of each head, next to its own teacher's, by the teachers' names in `folder`."""
    names = teacher_names(folder, teacher)
    metrics = {}
    for number, (name, moments) in enumerate(zip(names, _member_moments(teacher, stored), strict=True)):
        own = member_inputs(inputs, teacher, number, moments)
        scorers = {key: score for key, score in MEMBER_METRICS.items() if key != "retrieval" or own.val.captioned}
        metrics[name] = {
            "model": teacher[ENSEMBLE][number]["model"],
            **{key: score(own)[0] for key, score in scorers.items()},
        }
    return metrics


def member_inputs(
    inputs: EvaluationInputs, teacher: Mapping[str, Any], number: int, moments: CoMoments
) -> EvaluationInputs:
    """Return the inputs of one head: its part of every row, and its teacher's embeddings."""
    end = int(np.cumsum(widths(teacher))[number])
    block = slice(end - widths(teacher)[number], end)
    splits = [_member_split(split, number, block) for split in (inputs.val, *inputs.labeled)]
    spaces = reference_spaces(moments, inputs.params.floor)
    rules = available_rules(inputs.params.rules, moments)
    return replace(inputs, val=splits[0], labeled=splits[1:], rules=rules, spaces=spaces, moments=moments)


def _member_split(split: SplitEmbeddings, number: int, block: slice) -> SplitEmbeddings:
    if not isinstance(split.store, EnsembleStore):
        raise TypeError(f"{split.name}: not embedded by an ensemble")
    store = split.store.members[number]
    return SplitEmbeddings(split.name, store, split.student[:, block], store.image(0).load())


def _member_moments(teacher: Mapping[str, Any], stored: StoredMoments) -> Sequence[CoMoments]:
    return [stored.of_teacher(member).for_norm("l2") for member in teacher.get(ENSEMBLE, ())]
