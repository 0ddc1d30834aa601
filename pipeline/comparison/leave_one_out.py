"""Trials of a comparison over domains: a student is trained on all domains but one and tested on that one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from cache.fingerprint import fingerprint
from cache.normalization import l2_normalize
from pipeline.comparison.arms import ComparisonArm, ComparisonArmParams, arm_space, in_clip_space, words_of
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.folds import Fold, LabeledRows, SelectedPixels
from pipeline.comparison.runner import Trial, initial_losses
from pipeline.evaluation.metrics.probes import fit_linear_words
from pipeline.evaluation.metrics.zero_shot import ZeroShotPredictions, classify
from pipeline.project.code_versions import code_identity, code_version
from pipeline.project.errors import DivergedError, UsageError
from pipeline.students.backbones import initial_weights_facts
from pipeline.students.inference import check_finite_rows, embed_pixels
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import Student, StudentParams
from pipeline.students.run import ArmParams, TrainingRun
from pipeline.students.training.loop import ResumeConfig
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.validation import HistoryRow
from pipeline.whitening.moments_file import StoredMoments, embeddings_digest
from pipeline.whitening.spaces import TargetSpace

TARGET, SOURCES = "target", "sources"
SCORES = ("accuracy", "balanced")


def score(predictions: ZeroShotPredictions, where: str) -> dict[str, float]:
    """Return accuracy and class-balanced accuracy, by the names of comparisons over domains."""
    values = predictions.accuracy, predictions.balanced_accuracy
    return {f"{where} {name}": value for name, value in zip(SCORES, values, strict=True)}


@dataclass(frozen=True)
class FoldEvaluator:
    """Evaluation protocol of one fold, with the class vectors of each student's training."""

    fold: Fold
    size: int
    batch: int
    subset: int

    def evaluate(self, student: Student, classes: Float[np.ndarray, "c k"]) -> HistoryRow:
        """Return the scores on a fixed subset of the held-out domain and on the sources' validation rows."""
        student.eval()
        metrics: HistoryRow = {}
        for where, rows in self._parts.items():
            vectors = l2_normalize(check_finite_rows(embed_pixels(student, rows[0], self.batch)))
            metrics |= score(classify(vectors, classes, rows[1]), where)
        return metrics

    def predictions(
        self, student: Student, classes: Float[np.ndarray, "c k"]
    ) -> tuple[ZeroShotPredictions, ZeroShotPredictions]:
        """Return a student's predictions for the images of the held-out domain, and for the sources' validation."""
        student.eval()
        held_out = [self._vectors(student, rows) for rows in self.fold.test]
        sources = self._vectors(student, self.fold.validation)
        return (
            classify(np.concatenate(held_out), classes, self.fold.labels),
            classify(sources, classes, self.fold.validation.labels),
        )

    def chance(self) -> HistoryRow:
        """Return the score at chance."""
        chance = 1 / len(self.fold.train.split.packed.classes)
        return {f"{where} {name}": chance for where in (TARGET, SOURCES) for name in SCORES}

    def _vectors(self, student: Student, rows: LabeledRows) -> Float[np.ndarray, "n k"]:
        embeddings = [embed_pixels(student, rows.center(chunk, self.size), self.batch) for chunk in rows.chunks()]
        return l2_normalize(check_finite_rows(np.concatenate(embeddings)))

    @cached_property
    def _parts(self) -> dict[str, tuple[UInt8[np.ndarray, "s h w 3"], Int64[np.ndarray, " s"]]]:
        parts = {}
        for where, rows in ((TARGET, self.fold.test[0]), (SOURCES, self.fold.validation)):
            picked = np.unique(np.linspace(0, len(rows.rows) - 1, min(self.subset, len(rows.rows))).astype(np.int64))
            parts[where] = rows.center(picked, self.size), rows.labels[picked]
        return parts


def teacher_scores(fold: Fold, space: TargetSpace) -> dict[str, float]:
    """Return the teacher's accuracy on the held-out domain: by the fold's words, prompts, a linear probe, and chance.

    The probe is one fitted vector per class, on its embeddings of the sources' training rows; chance is the frequency
    of the largest class of the held-out domain.
    """
    words, _ = fold.class_words(space)
    prompts, _ = replace(fold, words="prompts").class_words(space)
    rows = l2_normalize(space.to_target(np.concatenate([rows.embedding() for rows in fold.test])))
    taught = l2_normalize(space.to_target(fold.train.embedding()))
    count = len(fold.train.split.packed.classes)
    probe = fit_linear_words(taught, fold.train.labels, count)
    scores = {"majority": float(np.bincount(fold.labels).max() / len(fold.labels))}
    for name, classes in (("teacher", words), ("prompts", prompts), ("probe", probe)):
        scores |= score(classify(rows, classes, fold.labels), name)
    return scores


@dataclass(frozen=True)
class LeaveOneOutRunner:
    """Shared inputs of the trials of one comparison over domains."""

    student: str
    params: StudentParams
    training: TrainingParams
    arms: Mapping[str, tuple[ComparisonArmParams, LossParams]]
    folds: Mapping[str, FoldEvaluator]
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """Return the facts shared by all runs; more arms, domains, seeds, rates and budgets only add runs."""
        first = next(iter(self.folds.values()))
        fold = first.fold
        params = {
            "student": self.student,
            "params": self.params.model_dump(mode="json", exclude={"learning_rate"}),
            "training": self.training.model_dump(
                mode="json", exclude={"epochs", "seed", "num_validations", "zero_shot_set"}
            ),
            "words": fold.words,
            "subset": first.subset,
        }
        code = {"compare": code_identity("compare"), "pixels": code_version("pixels")}
        splits = {"train": fold.train.split.facts(), "val": fold.validation.split.facts()}
        return {**params, "code": code, **splits, **initial_weights_facts(self.params.backbone)}

    @property
    def arm_fingerprints(self) -> dict[str, str]:
        """Return a fingerprint of each arm."""
        return {
            name: fingerprint(
                {"target": p.target.model_dump(mode="json"), "loss": loss.model_dump(mode="json"), "control": p.control}
            )
            for name, (p, loss) in self.arms.items()
        }

    def arm(self, name: str, fold: Fold) -> ComparisonArm:
        """Return an arm with its space fitted to the training rows of a fold."""
        params, loss = self.arms[name]
        if params.target.teachers:
            raise UsageError(
                f"compare: arm '{name}' is of teacher {params.target.teacher}: a comparison over domains is of the "
                "first teacher's spaces alone. Leave `teacher` out"
            )
        manifest, norm = fold.train.split.store.manifest, params.target.pre_norm
        moments = StoredMoments(
            Path(f"without {fold.held_out}"),
            {norm: fold.moments(norm)},
            manifest.teacher,
            embeddings_digest(manifest),
            "all",
        )
        return ComparisonArm(name, params, loss, arm_space(name, params, moments))

    def teacher(self) -> dict[str, dict[str, float]]:
        """Return the teacher's scores on each held-out domain."""
        plain = in_clip_space(ComparisonArmParams()), LossParams(label=1.0)
        return {
            name: teacher_scores(each.fold, replace(self, arms={"teacher": plain}).arm("teacher", each.fold).space)
            for name, each in self.folds.items()
        }

    def run(self, trial: Trial, state: Path) -> RunResult:
        """Train one student on the sources and return its scores; a diverged one has the score of chance.

        The seed decides initial weights, batches and views, independent of the arm and the held-out domain.
        """
        evaluator, began = self.folds[str(trial.held_out)], time.monotonic()
        run = self.build(trial)
        start, classes = initial_losses(run), words_of(run.feed.targets)

        def look(student: Student) -> HistoryRow:
            return evaluator.evaluate(student, classes)

        try:
            trained, history = run.train(look, ResumeConfig(state))
            target, sources = evaluator.predictions(trained, classes)
            final = score(target, TARGET) | score(sources, SOURCES)
            predicted = tuple(target.predicted.tolist())
        except DivergedError:
            final, predicted = evaluator.chance(), ()
            history = [{"epoch": float(i + 1), **final} for i in range(run.params.num_validations)]
        curves = {name: tuple(row[name] for row in history) for name in final}
        steps, seconds = tuple(row["epoch"] for row in history), time.monotonic() - began
        about = trial.arm, trial.seed, trial.rate, trial.epochs
        return RunResult(*about, steps, curves, final, start, seconds, trial.held_out, predicted)

    def build(self, trial: Trial) -> TrainingRun:
        """Build the training run of a trial, as `distill` builds an arm's; raises UsageError."""
        fold = self.folds[str(trial.held_out)].fold
        arm = self.arm(trial.arm, fold)
        changes = {"epochs": trial.epochs, "seed": trial.seed, "num_validations": trial.epochs}
        recipe = ArmParams(
            self.training.model_copy(update=changes),
            arm.loss,
            self.params.model_copy(update={"learning_rate": trial.rate}),
        )
        targets = arm.apply_control(fold.targets(arm.space, recipe.training.max_views))
        pixels = SelectedPixels(fold.train.pixels, fold.train.rows)
        return TrainingRun.build(self.student, recipe, targets, pixels, self.device)
