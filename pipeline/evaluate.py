"""Say what a student is worth: each rule, each set, beside its teacher under the same rule and chance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cache.errors import StaleError
from cache.fingerprint import fingerprint
from pipeline.evaluation.csv_tables import round_numbers
from pipeline.evaluation.inputs import MetricParams, SplitEmbeddings
from pipeline.evaluation.labelled import leakage_scores, probe_scores
from pipeline.evaluation.laws import likelihood_scores, normality_scores
from pipeline.evaluation.model_files import check_arm, write_evaluation
from pipeline.evaluation.scores import agreement_scores, caption_counts, retrieval_scores, zero_shot_scores
from pipeline.evaluation.scoring_rules import Rule, available_rules, reference_spaces
from pipeline.evaluation.shape import geometry_scores
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.runtime import Runtime
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.sample_size import sample_size_warning


class EvaluateParams(MetricParams):
    """The `evaluate:` section."""

    rules: tuple[Rule, ...] = Field(default=("clip", "whitened"), min_length=1)
    """How images and texts are compared; `clip` is CLIP's own."""


def evaluate(folder: Path, sets: Sequence[str], params: EvaluateParams, layout: Layout, runtime: Runtime) -> Path:
    """Score the student of a folder on val and on zero-shot sets; write metrics.json, tables/ and their hashes.

    Raises:
        CacheError: the student, a split or the moments are missing, damaged or of different inputs.
        PipelineError: the student's embeddings are not finite.
    """
    card, (val, *labelled) = _embed_splits(folder, ["val", *sets], layout, runtime)
    measured = load_moments(layout.moments)
    if measured.teacher != card["teacher"]:
        raise StaleError(
            f"{layout.moments}: of {fingerprint(measured.teacher)} ({measured.teacher.get('model')}), but {folder} "
            f"learnt from {fingerprint(card['teacher'])} ({card['teacher'].get('model')}). Run `dvc repro`."
        )
    moments = measured.by_pre_norm.get("l2") or next(iter(measured.by_pre_norm.values()))
    spaces = reference_spaces(moments, params.floor)
    rules = available_rules(params.rules, moments)
    if dropped := [rule for rule in params.rules if rule not in rules]:
        print(f"evaluate: without captions in train there is no rule {', '.join(dropped)}", file=sys.stderr)
    parts = {
        "zero_shot": zero_shot_scores(labelled, rules, spaces),
        "agreement": agreement_scores(val, moments, spaces, params),
        "probes": (probe_scores(labelled, params), {}),
        "geometry": geometry_scores(val, rules, spaces, params),
        "normality": normality_scores(val, moments, spaces, params),
        "likelihood": likelihood_scores(val, labelled, moments, params),
        "leakage": leakage_scores([val, *labelled], layout, params),
    }
    if val.captioned:
        parts["retrieval"] = {"val": retrieval_scores(val, rules, spaces)}, {}
        parts["captions"] = {"val": caption_counts(val)}, {}
    rows = {side: found.count for side, found in moments.by_modality.items()}
    if not {"whitened", "soft"}.isdisjoint(rules) and (warning := sample_size_warning(rows, len(moments.image.mean))):
        print(f"evaluate: {warning}", file=sys.stderr)
    metrics = {name: card[name] for name in ("student", "target")} | {name: found for name, (found, _) in parts.items()}
    metrics["reference_fit"] = {"dimensions": len(moments.image.mean), "rows": rows}
    tables = {name: table for _, tables in parts.values() for name, table in tables.items()}
    return write_evaluation(folder, card, round_numbers(metrics), tables)


def _embed_splits(
    folder: Path, splits: Sequence[str], layout: Layout, runtime: Runtime
) -> tuple[dict[str, Any], list[SplitEmbeddings]]:
    """Return the student's card, and what it says of the very views that its teacher saw."""
    from pipeline.project.device import choose_device
    from pipeline.students.checkpoint import load_student
    from pipeline.students.inference import embed_split_texts
    from pipeline.students.inputs.splits import open_split
    from pipeline.students.training.validation import center_views

    student = load_student(folder, choose_device(runtime.device))
    card: dict[str, Any] = dict(student.card)
    check_arm(folder, card, layout)
    seen = []
    for name in splits:
        split = open_split(name, layout, runtime, card["teacher"])
        images = center_views(split.store, split.pixels(card["image_size"], 1, layout, runtime))
        said = images.embed(student, card["image_size"], runtime.batch)
        if not np.isfinite(said).all():
            raise PipelineError(f"{folder}: the student answers NaN. Distil it again with a lower learning rate.")
        read = embed_split_texts(student, split.store, runtime.batch)
        seen.append(SplitEmbeddings(name, split.store, said, split.store.image(0).load(), read))
    return card, seen
