"""Evaluate a student on every split and scoring rule, next to its teacher's score and chance."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.ensemble import unit_blocks
from cache.teachers import ENSEMBLE, widths
from pipeline.evaluation.csv_tables import CsvTable, round_numbers
from pipeline.evaluation.inputs import EvaluateParams, EvaluationInputs, MetricsAndTables, SplitEmbeddings
from pipeline.evaluation.members import ensemble_spaces, score_members
from pipeline.evaluation.metrics import (
    agreement,
    domains,
    geometry,
    leakage,
    likelihood,
    normality,
    probes,
    retrieval,
    zero_shot,
)
from pipeline.evaluation.model_files import check_arm, write_evaluation
from pipeline.evaluation.scoring_rules import COVARIANCE_RULES, available_rules, reference_spaces
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.relations import choice_metrics, reranking
from pipeline.whitening.comoments import CoMoments, sample_size_warning
from pipeline.whitening.moments_file import StoredMoments, load_moments

__all__ = ["CAPTIONED_METRICS", "DOMAIN_METRICS", "METRICS", "EvaluateParams", "evaluate"]

Metric = Callable[[EvaluationInputs], MetricsAndTables]
METRICS: dict[str, Metric] = {
    "zero_shot": zero_shot.score,
    "agreement": agreement.score,
    "probes": probes.score,
    "geometry": geometry.score,
    "normality": normality.score,
    "likelihood": likelihood.score,
    "leakage": leakage.score,
}
"""Metrics by their key in metrics.json."""
CAPTIONED_METRICS: dict[str, Metric] = {"retrieval": retrieval.score, "captions": retrieval.count_captions}
"""Metrics that need captions of val."""
DOMAIN_METRICS: dict[str, Metric] = {"domains": domains.score}
"""Metrics that need a labelled split of several domains."""
CHOICE_METRICS: dict[str, Metric] = {"choices": choice_metrics.score}
"""Metrics of choice sets, if the parameters name some."""


def evaluate(  # noqa: PLR0917  the contract of the stage
    folder: Path,
    sets: Sequence[str],
    params: EvaluateParams,
    layout: Layout,
    runtime: Runtime,
    choice_sets: Sequence[str] = (),
) -> Path:
    """Score the student of a folder on val, zero-shot and choice sets; write metrics.json, tables/ and their hashes.

    Raises:
        CacheError: the student, a split or the moments are missing, damaged or of different inputs.
        DivergedError: the student's embeddings are not finite, or zero.
    """
    card, (val, *labeled) = _embed_splits(folder, ["val", *sets], layout, runtime)
    stored = load_moments(layout.moments)
    moments = _moments_of_teacher(folder, card, stored)
    spaces = ensemble_spaces(reference_spaces(moments, params.floor), card["teacher"], stored, params.floor)
    rules = available_rules(params.rules, moments)
    inputs = EvaluationInputs(
        val, labeled, rules, spaces, moments, params, layout, folder=folder, choice_sets=choice_sets, runtime=runtime
    )
    metrics: dict[str, Any] = {name: card[name] for name in ("student", "target")}
    tables: dict[str, CsvTable] = {}
    for name, score in _metrics(inputs).items():
        metrics[name], own_tables = score(inputs)
        tables |= own_tables
    if ENSEMBLE in card["teacher"]:
        metrics["teachers"] = score_members(inputs, card["teacher"], stored, layout.embeddings("val"))
    rows = {modality: each.count for modality, each in moments.by_modality.items()}
    metrics["reference_fit"] = {"dimensions": len(moments.image.mean), "rows": rows}
    _print_warnings(params.rules, inputs)
    return write_evaluation(folder, card, round_numbers(metrics), tables)


def _metrics(inputs: EvaluationInputs) -> dict[str, Metric]:
    """Return the metrics for which the splits and parameters have data."""
    captioned = CAPTIONED_METRICS if inputs.val.captioned else {}
    choices = CHOICE_METRICS if inputs.choice_sets else {}
    reranked = {"reranking": reranking.score} if captioned and inputs.params.scorers else {}
    by_domain = DOMAIN_METRICS if inputs.has_domains else {}
    return {**METRICS, **captioned, **by_domain, **choices, **reranked}


def _moments_of_teacher(folder: Path, card: Mapping[str, Any], stored: StoredMoments) -> CoMoments:
    """Return the moments of train for unit rows or, if they were not measured, for raw rows.

    Raises:
        StaleError: they belong to another teacher than the student's.
    """
    measured = stored.of_teacher(card["teacher"], folder)
    return measured.by_pre_norm.get("l2") or next(iter(measured.by_pre_norm.values()))


def _print_warnings(requested: Sequence[str], inputs: EvaluationInputs) -> None:
    if dropped := [rule for rule in requested if rule not in inputs.rules]:
        print(f"evaluate: without captions in train there is no rule {', '.join(dropped)}", file=sys.stderr)
    rows = {modality: each.count for modality, each in inputs.moments.by_modality.items()}
    whitening = [rule for rule in COVARIANCE_RULES if rule in inputs.rules]
    warning = sample_size_warning(rows, len(inputs.moments.image.mean), whitening) if whitening else None
    if warning:
        print(f"evaluate: {warning}", file=sys.stderr)


def _embed_splits(
    folder: Path, splits: Sequence[str], layout: Layout, runtime: Runtime
) -> tuple[dict[str, Any], list[SplitEmbeddings]]:
    """Return the student's card, and both models' embeddings of the center views of each split."""
    from pipeline.project.device import choose_device
    from pipeline.students.checkpoint import load_student
    from pipeline.students.inference import center_views, embed_split_texts
    from pipeline.students.inputs.splits import open_split

    student = load_student(folder, choose_device(runtime.device))
    card: dict[str, Any] = dict(student.card)
    check_arm(folder, card, layout)
    embedded = []
    for name in splits:
        split = open_split(name, layout, runtime, card["teacher"])
        images = center_views(split.store, split.pixels(card["image_size"], 1, layout, runtime))
        rows = images.embed(student, card["image_size"], runtime.batch)
        if sizes := widths(card["teacher"]):
            rows = unit_blocks(rows, sizes)  # as for the teachers' rows; each head has its own norm
        texts = embed_split_texts(student, split.store, runtime.batch)
        domains_of = tuple(map(split.packed.domain_of, split.store.keys)) if split.packed.domains else ()
        embedded.append(SplitEmbeddings(name, split.store, rows, split.store.image(0).load(), texts, domains_of))
    return card, embedded
