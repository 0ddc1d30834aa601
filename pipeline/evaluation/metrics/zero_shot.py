"""Zero-shot classification by the highest-scoring class prompt, for the student and its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from cache.shard import PromptShard
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.scoring_rules import (
    ReferenceSpaces,
    first_template,
    image_vectors,
    kept_above_chance,
    predict_classes,
    prompt_vectors,
    retention,
    score_factors,
)

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables, SplitEmbeddings


@dataclass(frozen=True)
class ZeroShotPredictions:
    """Predicted class of each labelled image."""

    labels: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    classes: int

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions."""
        return float(np.mean(self.predicted == self.labels))

    @property
    def standard_error(self) -> float:
        """Binomial standard error √(p(1 − p)/n) of the accuracy."""
        p = self.accuracy
        return float(np.sqrt(p * (1 - p) / len(self.labels)))

    @property
    def confusion(self) -> Int[np.ndarray, "c c"]:
        """Confusion matrix of counts: rows are true classes, columns predicted classes."""
        flat = np.bincount(self.labels * self.classes + self.predicted, minlength=self.classes**2)
        return flat.reshape(self.classes, self.classes)

    @property
    def per_class(self) -> Float[np.ndarray, " c"]:
        """Accuracy within each true class; NaN for a class without images."""
        counts = np.bincount(self.labels, minlength=self.classes)
        share: Float[np.ndarray, " c"] = np.diagonal(self.confusion) / np.maximum(counts, 1)
        return np.where(counts > 0, share, np.nan)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracies within each class that has images."""
        return float(np.nanmean(self.per_class))

    @property
    def prediction_entropy(self) -> float:
        """Entropy of the predicted classes divided by ln c: 1 if all are equally frequent, 0 if there is only one."""
        share = np.bincount(self.predicted, minlength=self.classes) / len(self.predicted)
        used = share[share > 0]
        return float(-np.sum(used * np.log(used)) / np.log(self.classes)) if self.classes > 1 else 0.0


def classify(
    image: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], labels: Int[np.ndarray, " n"]
) -> ZeroShotPredictions:
    """Assign each image vector to the class vector with the largest dot product; the first one on ties."""
    return ZeroShotPredictions(labels, predict_classes(image, classes), len(classes))


@dataclass(frozen=True)
class ZeroShotComparison:
    """Predictions of student and teacher on one labelled set under one scoring rule."""

    student: ZeroShotPredictions
    teacher: ZeroShotPredictions

    def summary(self) -> dict[str, Any]:
        """Return the values by the names of metrics.json; `kept` is the student's accuracy divided by the teacher's.

        `kept_above_chance` is the same with chance subtracted from both.
        """
        chance_level, count = 1 / self.student.classes, len(self.student.labels)
        return {
            "student": self.student.accuracy,
            "ceiling": self.teacher.accuracy,
            "chance": chance_level,
            "kept": retention(self.student.accuracy, self.teacher.accuracy),
            "kept_above_chance": kept_above_chance(self.student.accuracy, self.teacher.accuracy, chance_level, count),
            "n": count,
            "standard_error": self.student.standard_error,
            "prediction_entropy": self.student.prediction_entropy,
            "agreement": float(np.mean(self.student.predicted == self.teacher.predicted)),
        }


def compare_zero_shot(
    rule: str,
    student: Float[np.ndarray, "n d"],
    teacher: Float[np.ndarray, "n d"],
    *,
    labels: Int[np.ndarray, " n"],
    prompts: PromptShard,
    spaces: ReferenceSpaces,
) -> ZeroShotComparison:
    """Classify images under a rule, with the student's and with the teacher's embeddings."""
    classes = prompt_vectors(rule, prompts, spaces)
    predictions = (
        classify(*score_factors(rule, image_vectors(rule, rows, spaces), classes), labels)
        for rows in (student, teacher)
    )
    return ZeroShotComparison(*predictions)


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score each labelled set under each rule; tables of accuracy by class, and of both models' predictions.

    Class vectors are the teacher's cached prompts. `single_prompt` uses only the first template; `own_text` is the
    student's accuracy with class vectors of its own text tower.
    """
    metrics: dict[str, Any] = {}
    tables: dict[str, CsvTable] = {}
    for split in inputs.labeled:
        if not split.store.has_prompts:  # the teacher has no text tower
            continue
        prompts = split.store.prompts()
        by_rule = _compare(split, prompts, inputs)
        metrics[split.name] = {rule: comparison.summary() for rule, comparison in by_rule.items()}
        if len(prompts.templates) > 1:
            for rule, comparison in _compare(split, first_template(prompts), inputs).items():
                metrics[split.name][rule]["single_prompt"] = {
                    "template": prompts.templates[0],
                    "student": comparison.student.accuracy,
                    "ceiling": comparison.teacher.accuracy,
                }
        if split.student_text is not None:
            for rule, comparison in _compare(split, replace(prompts, embedding=split.student_text), inputs).items():
                metrics[split.name][rule]["own_text"] = comparison.student.accuracy
        tables[f"{split.name}-classes"] = _class_table(by_rule, prompts.classes)
        first = by_rule[inputs.rules[0]]
        tables[f"{split.name}-predictions"] = _prediction_table(first, split.store.keys, prompts.classes)
    return metrics, tables


def _compare(split: SplitEmbeddings, prompts: PromptShard, inputs: EvaluationInputs) -> dict[str, ZeroShotComparison]:
    labels = np.asarray(split.store.labels)
    return {
        rule: compare_zero_shot(
            rule, split.student, split.teacher, labels=labels, prompts=prompts, spaces=inputs.spaces
        )
        for rule in inputs.rules
    }


def _class_table(by_rule: Mapping[str, ZeroShotComparison], classes: Sequence[str]) -> CsvTable:
    rows: list[tuple[Any, ...]] = []
    for rule, comparison in by_rule.items():
        counts = comparison.student.confusion.sum(axis=1)
        accuracies = zip(classes, counts, comparison.student.per_class, comparison.teacher.per_class, strict=True)
        rows += [(name, rule, int(n), float(student), float(teacher)) for name, n, student, teacher in accuracies]
    return CsvTable(("class", "rule", "n", "student", "ceiling"), rows)


def _prediction_table(comparison: ZeroShotComparison, keys: Sequence[str], classes: Sequence[str]) -> CsvTable:
    """Return both predictions of each image; `dvc plots --template confusion` reads `actual` and `predicted`."""
    indices = [comparison.student.labels, comparison.student.predicted, comparison.teacher.predicted]
    return CsvTable(
        ("key", "actual", "predicted", "teacher"), list(zip(keys, *np.asarray(classes)[indices].tolist(), strict=True))
    )
