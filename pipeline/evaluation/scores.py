"""From what student and teacher say of a split to metrics and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.inputs import MetricParams, MetricsAndTables, SplitEmbeddings, Tables, subsample_rows
from pipeline.evaluation.metrics.agreement import (
    axis_fit,
    linear_cka,
    mean_cosine,
    nearest_other_rows,
    neighbour_overlap,
)
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs
from pipeline.evaluation.scoring_rules import ReferenceSpaces, first_template
from pipeline.evaluation.teacher_reference import (
    ZeroShotComparison,
    chance_retrieval,
    compare_zero_shot,
    retention,
    score_retrieval,
)
from pipeline.whitening.comoments import CoMoments

QUERIES = 12
"""Images whose neighbours are kept for the report."""


def zero_shot_scores(
    labelled: Sequence[SplitEmbeddings], rules: Sequence[str], spaces: ReferenceSpaces
) -> MetricsAndTables:
    """Score labelled sets by each rule; tables by class, and what both models said of each image.

    Classes are the teacher's cached text; `own_text` is the student's accuracy with its own text tower's.
    """
    metrics: dict[str, Any] = {}
    tables: Tables = {}
    for seen in labelled:
        prompts, labels = seen.store.prompts(), np.asarray(seen.store.labels)
        found = {
            rule: compare_zero_shot(rule, seen.student, seen.teacher, labels=labels, prompts=prompts, spaces=spaces)
            for rule in rules
        }
        metrics[seen.name] = {rule: each.summary() for rule, each in found.items()}
        if len(prompts.templates) > 1:
            one = first_template(prompts)
            for rule in rules:
                alone = compare_zero_shot(rule, seen.student, seen.teacher, labels=labels, prompts=one, spaces=spaces)
                metrics[seen.name][rule]["single_prompt"] = {
                    "template": one.templates[0],
                    "student": alone.student.accuracy,
                    "ceiling": alone.teacher.accuracy,
                }
        if seen.student_text is not None:
            own = replace(prompts, embedding=seen.student_text)
            for rule in rules:
                alone = compare_zero_shot(rule, seen.student, seen.teacher, labels=labels, prompts=own, spaces=spaces)
                metrics[seen.name][rule]["own_text"] = alone.student.accuracy
        tables[f"{seen.name}-classes"] = _by_class(found, prompts.classes)
        tables[f"{seen.name}-predictions"] = _predictions(next(iter(found.values())), seen.store.keys, prompts.classes)
    return metrics, tables


def _by_class(found: Mapping[str, ZeroShotComparison], classes: Sequence[str]) -> CsvTable:
    rows: list[tuple[Any, ...]] = []
    for rule, each in found.items():
        counts = each.student.confusion.sum(axis=1)
        both = zip(classes, counts, each.student.per_class, each.teacher.per_class, strict=True)
        rows += [(name, rule, int(n), float(student), float(teacher)) for name, n, student, teacher in both]
    return CsvTable(("class", "rule", "n", "student", "ceiling"), rows)


def _predictions(found: ZeroShotComparison, keys: Sequence[str], classes: Sequence[str]) -> CsvTable:
    """Return what both said of each image; `dvc plots --template confusion` reads `actual` and `predicted`."""
    said = np.asarray(classes)[[found.student.labels, found.student.predicted, found.teacher.predicted]]
    return CsvTable(("key", "actual", "predicted", "teacher"), list(zip(keys, *said.tolist(), strict=True)))


def retrieval_scores(val: SplitEmbeddings, rules: Sequence[str], spaces: ReferenceSpaces) -> dict[str, Any]:
    """Score retrieval between a split's images and all its captions by each rule.

    Captions are the teacher's cached text; `own_text` is the student by itself, with its own text tower's.
    """
    pairs, text = ground_truth_pairs(val.store.offsets, _words(val)), val.store.text().load()
    chance = chance_retrieval(pairs)
    found: dict[str, Any] = {}
    for rule in rules:
        student, ceiling = (score_retrieval(rule, rows, text, pairs, spaces) for rows in (val.student, val.teacher))
        share = {way: retention(student[way]["R@1"], ceiling[way]["R@1"]) for way in student}
        found[rule] = {"student": student, "ceiling": ceiling, "chance": chance, "kept": share}
        if val.student_text is not None:
            found[rule]["own_text"] = score_retrieval(rule, val.student, val.student_text, pairs, spaces)
    return found


def caption_counts(val: SplitEmbeddings) -> dict[str, int]:
    """Return how many captions a split has and how many of them differ: the candidates of retrieval."""
    words = _words(val)
    return {"n": len(words), "distinct": len(np.unique(words))}


def _words(val: SplitEmbeddings) -> Shaped[np.ndarray, " m"]:
    return np.concatenate([shard.caption_sha for shard in val.store.shards("text")])


def agreement_scores(
    val: SplitEmbeddings, moments: CoMoments, spaces: ReferenceSpaces, params: MetricParams
) -> MetricsAndTables:
    """Compare a student with its teacher on a split; tables of the fit by axis, and of nearest images."""
    center = spaces["centered"]
    fit = axis_fit(center.to_target(val.student), center.to_target(val.teacher), moments.image.covariance, params.floor)
    some = subsample_rows(len(val.teacher), params.sample)
    k = min(params.neighbours, len(val.teacher) - 2)
    mine, theirs = (nearest_other_rows(rows, k) for rows in (val.student, val.teacher))
    metrics = {
        "n": len(val.teacher),
        "r2_raw": fit.raw,
        "r2_whitened": fit.whitened,
        "r2_bands": fit.bands(),
        "axes_kept": fit.kept,
        "cosine": mean_cosine(val.student, val.teacher),
        "cka": linear_cka(val.student[some], val.teacher[some]),
        "neighbour_overlap": {"k": k, "share": neighbour_overlap(mine, theirs)},
    }
    eigenvalues = center.image.eigenvalues
    axes = [(i + 1, float(v), float(r)) for i, (v, r) in enumerate(zip(eigenvalues, fit.r2, strict=True))]
    nearest = _neighbours(val.store.keys, mine, theirs)
    return {"val": metrics}, {"val-axes": CsvTable(("axis", "eigenvalue", "r2"), axes), "val-neighbours": nearest}


def _neighbours(keys: Sequence[str], mine: Int[np.ndarray, "n k"], theirs: Int[np.ndarray, "n k"]) -> CsvTable:
    """Return the nearest images by both models for a few images, drawn the same each time."""
    rows = [
        (keys[query], rank + 1, keys[mine[query, rank]], keys[theirs[query, rank]])
        for query in subsample_rows(len(keys), QUERIES)
        for rank in range(mine.shape[1])
    ]
    return CsvTable(("key", "rank", "student", "teacher"), rows)
