"""The evaluation protocol shared by all arms of a comparison: the same rules, reference spaces and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from cache.ensemble import unit_blocks
from cache.teachers import widths
from pipeline.evaluation.metrics.agreement import axis_fit
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, score_retrieval
from pipeline.evaluation.scoring_rules import (
    ReferenceSpaces,
    image_vectors,
    predict_classes,
    prompt_vectors,
    score_factors,
)
from pipeline.students.inference import CenterViews, center_views, check_finite_rows, embed_pixels
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.splits import EmbeddedSplit
from pipeline.students.model import Student
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.spaces import TargetSpace

R2_METRICS = ("r2", "r2 whitened")
RECALL = "R@10"
"""Retrieval metric; R@1 of a small student is mostly noise."""


@dataclass(frozen=True)
class EvalSplit:
    """A split for evaluation, with a fixed subset of its pixels in memory."""

    split: EmbeddedSplit
    full: CenterViews
    rows: Int64[np.ndarray, " s"]
    pixels: UInt8[np.ndarray, "n s s 3"]

    def embed(self, student: Student, space: TargetSpace, full: bool, batch: int) -> Float[np.ndarray, "n d"]:
        """Return the student's embeddings of the split, in CLIP space."""
        size = self.pixels.shape[1]
        rows = self.full.embed(student, size, batch) if full else embed_pixels(student, self.pixels, batch)
        rows = space.to_embedding(check_finite_rows(rows))
        return unit_blocks(rows, widths(space.teacher)) if widths(space.teacher) else rows  # as `evaluate` has them


def make_eval_split(split: EmbeddedSplit, pixels: PixelStore, subset: int, size: int) -> EvalSplit:
    """Take a fixed, evenly spaced subset of a split."""
    full = center_views(split.store, pixels)
    rows = np.unique(np.linspace(0, len(full.flips) - 1, min(subset, len(full.flips))).astype(np.int64))
    return EvalSplit(split, full, rows, pixels.batch(rows, full.boxes[rows], full.flips[rows], size))


@dataclass(frozen=True)
class ArmEvaluator:
    """Evaluates students of all arms under the same rules in the same spaces."""

    zero_shot: EvalSplit
    val: EvalSplit
    moments: CoMoments
    spaces: ReferenceSpaces
    rules: tuple[str, ...]
    floor: float
    batch: int

    def evaluate(self, student: Student, space: TargetSpace, full: bool = False) -> dict[str, float]:
        """Return zero-shot accuracy by rule, and R² in the raw and whitened metric and by band of axes."""
        student.eval()
        watched, val = (each.embed(student, space, full, self.batch) for each in (self.zero_shot, self.val))
        metrics = {rule: self._accuracy(rule, watched, full) for rule in self.rules}
        metrics |= self._fit(val, full)
        if full and len(self.selection_metrics) > len(R2_METRICS):
            metrics |= self._recall(val)
        return metrics

    def facts(self) -> dict[str, Any]:
        """Return the facts that decide the scores, for the fingerprint."""
        splits = {each.split.packed.split: each.split.facts() for each in (self.zero_shot, self.val)}
        subset = [len(self.zero_shot.rows), len(self.val.rows)]
        spaces = {rule: space.fingerprint for rule, space in self.spaces.items()}
        return {**splits, "subset": subset, "rules": list(self.rules), "floor": self.floor, "spaces": spaces}

    @property
    def selection_metrics(self) -> list[str]:
        """Return the validation scores by which a learning rate can be chosen."""
        captioned = self.val.split.store.has_captions
        return [*R2_METRICS, *(f"recall {rule}" for rule in self.rules if captioned)]

    def chance_scores(self) -> dict[str, float]:
        """Return the scores at chance."""
        chance = 1 / len(self.zero_shot.split.store.prompts().classes)
        return {**dict.fromkeys(self.rules, chance), **dict.fromkeys(self.selection_metrics, 0.0)}

    def ceilings(self) -> dict[str, float]:
        """Return the teacher's accuracy under each rule."""
        rows = self.zero_shot.split.store.image().load()
        return {rule: self._accuracy(rule, rows, True) for rule in self.rules}

    def _accuracy(self, rule: str, rows: Float[np.ndarray, "n d"], full: bool) -> float:
        store = self.zero_shot.split.store
        labels = np.asarray(store.labels)
        classes = prompt_vectors(rule, store.prompts(), self.spaces)
        labels = labels if full else labels[self.zero_shot.rows]
        image, classes = score_factors(rule, image_vectors(rule, rows, self.spaces), classes)
        return float(np.mean(predict_classes(image, classes) == labels))

    def _fit(self, rows: Float[np.ndarray, "n d"], full: bool) -> dict[str, float]:
        teacher = self.val.split.store.image().load()
        center = self.spaces["centered"]
        targets = center.to_target(teacher if full else teacher[self.val.rows])
        fit = axis_fit(center.to_target(rows), targets, self.moments.image.covariance, self.floor)
        return {"r2": fit.raw, "r2 whitened": fit.whitened, **{f"r2 {band}": r for band, r in fit.bands().items()}}

    def _recall(self, rows: Float[np.ndarray, "n d"]) -> dict[str, float]:
        store = self.val.split.store
        pairs, text = ground_truth_pairs(store.offsets, store.caption_hashes()), store.text().load()
        recalls = {rule: score_retrieval(rule, rows, text, pairs, self.spaces).values() for rule in self.rules}
        return {f"recall {rule}": float(np.mean([way[RECALL] for way in ways])) for rule, ways in recalls.items()}
