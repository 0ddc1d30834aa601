"""Accuracy by domain: top-1, class-balanced, mean and worst over domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.metrics.zero_shot import ZeroShotPredictions, compare_zero_shot

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables, SplitEmbeddings

SCORES = ("accuracy", "balanced")
MODELS = ("student", "ceiling")


def domain_scores(predictions: ZeroShotPredictions, domains: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return n, accuracy and class-balanced accuracy of each domain, sorted by name.

    Class-balanced accuracy is the mean over the classes with images in the domain. Unlike accuracy, it is low for a
    model that predicts only the majority class.
    """
    each = np.asarray(domains)
    scores = {}
    for domain in sorted(set(domains)):
        rows = each == domain
        part = ZeroShotPredictions(predictions.labels[rows], predictions.predicted[rows], predictions.classes)
        scores[domain] = {"n": int(rows.sum()), "accuracy": part.accuracy, "balanced": part.balanced_accuracy}
    return scores


def over_domains(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the unweighted mean over domains of each score, and the minimum."""
    values = {name: [domain[name] for domain in scores.values()] for name in SCORES}
    return {
        "mean": {name: float(np.mean(each)) for name, each in values.items()},
        "worst": {name: float(np.min(each)) for name, each in values.items()},
    }


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score each labelled split by domain, including val if it has labels; a set without domains is one domain.

    `held-out` has the mean and the worst over the domains of all zero-shot sets: if a domain is left out of train and
    is a set of its own, this is the unseen domain.
    """
    metrics: dict[str, Any] = {}
    rows: list[tuple[Any, ...]] = []
    for rule in inputs.rules:
        together: dict[str, dict[str, dict[str, float]]] = {model: {} for model in MODELS}
        for split in inputs.labeled_splits:
            by_model = _compare(split, rule, inputs)
            metrics.setdefault(split.name, {})[rule] = {
                model: {"domains": scores, **over_domains(scores)} for model, scores in by_model.items()
            }
            if split is not inputs.val:
                for model, scores in by_model.items():
                    together[model] |= {f"{split.name}/{domain}": each for domain, each in scores.items()}
            for domain, own in by_model["student"].items():
                numbers = [model[domain][name] for model in by_model.values() for name in SCORES]
                rows.append((split.name, domain, rule, own["n"], *numbers))
        if together["student"]:
            metrics.setdefault("held-out", {})[rule] = {model: over_domains(each) for model, each in together.items()}
    names = ("split", "domain", "rule", "n", "student", "student_balanced", "ceiling", "ceiling_balanced")
    return metrics, {"domains": CsvTable(names, rows)}


def _compare(split: SplitEmbeddings, rule: str, inputs: EvaluationInputs) -> dict[str, dict[str, dict[str, float]]]:
    labels: Int[np.ndarray, " n"] = np.asarray(split.store.labels)
    domains = split.domains or (split.name,) * len(labels)
    compared = compare_zero_shot(
        rule, split.student, split.teacher, labels=labels, prompts=split.store.prompts(), spaces=inputs.spaces
    )
    models = zip(MODELS, (compared.student, compared.teacher), strict=True)
    return {model: domain_scores(predictions, domains) for model, predictions in models}
