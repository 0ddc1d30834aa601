"""Compare several teachers before training: scores of their ensembles, and their mutual explained variance.

The ceiling of an ensemble next to each teacher's own is the limit of a student of it. The mutual explained variance
shows the use of a second head: R² near 1 in both directions means that the teachers are equivalent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float

from cache.ensemble import open_store
from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from cache.teachers import members, widths
from pipeline.evaluation.members import ensemble_spaces
from pipeline.evaluation.metrics.agreement import linear_cka
from pipeline.evaluation.metrics.retrieval import DIRECTIONS, ground_truth_pairs, score_retrieval
from pipeline.evaluation.metrics.zero_shot import classify
from pipeline.evaluation.scoring_rules import (
    ReferenceSpaces,
    available_rules,
    image_vectors,
    prompt_vectors,
    reference_spaces,
)
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.whitening.moments_file import StoredMoments

RIDGE = 1e-6
"""Added to a covariance before inversion, relative to the mean variance; float32 rows do not resolve less."""
ROWS = 1000
"""Images of val on which teachers are compared; the kernel alignment has quadratic cost."""
TWICE = 2.0
"""Number of standard errors by which an ensemble must exceed its best member to be called better."""


@dataclass(frozen=True)
class TeacherCeiling:
    """Scores of one teacher, or of an ensemble."""

    name: str
    scores: dict[str, dict[str, float]]
    """By set (val for retrieval), then by rule: accuracy, or mean recall at 1 of both directions, as fractions."""


@dataclass(frozen=True)
class LinearFit:
    """A least-squares map from one teacher's image embeddings to another's, scored on val."""

    source: str
    target: str
    r2: float
    """R² of the least-squares map fitted on train, relative to the variance of the target's unit vectors."""
    cka: float
    """Debiased linear kernel alignment; symmetric."""


@dataclass(frozen=True)
class TeacherComparison:
    """The audit of several teachers."""

    ceilings: tuple[TeacherCeiling, ...]
    explained: tuple[LinearFit, ...]
    counts: dict[str, int]
    """Number of images of each set."""

    def advice(self) -> list[str]:
        """Return one line per ensemble and set: whether it is better than its best member under CLIP's own rule."""
        by_name = {each.name: each.scores for each in self.ceilings}
        lines = []
        for name, scores in by_name.items():
            parts = [part for part in name.split("+") if part in by_name]
            for split, by_rule in scores.items():
                alone = {part: by_name[part][split]["clip"] for part in parts if "clip" in by_name[part].get(split, {})}
                if len(parts) > 1 and alone and "clip" in by_rule:
                    lines.append(_verdict(name, split, by_rule["clip"], alone, self.counts[split]))
        return lines


def compare_teachers(
    stored: StoredMoments, zero_shot: Sequence[str], floor: float, layout: Layout, runtime: Runtime
) -> TeacherComparison:
    """Score each measured teacher and ensemble, and compute their mutual explained variance.

    Raises:
        CacheError: embeddings are missing, damaged or of other teachers than were measured.
    """
    teachers = [stored, *stored.others.values()]
    names = [stored.name, *stored.others]
    splits = ("val", *zero_shot)
    ceilings = [
        TeacherCeiling(name, _scores(each, stored, splits, floor, layout, runtime))
        for name, each in zip(names, teachers, strict=True)
    ]
    counts = {name: EmbeddingStore.open(layout.embeddings(name), "size").rows for name in splits}
    return TeacherComparison(tuple(ceilings), tuple(_explained(stored, layout, runtime)), counts)


def explained_variance(
    covariance: Float[np.ndarray, "d d"],
    mean: Float[np.ndarray, " d"],
    rows: Float[np.ndarray, "n d"],
    source: slice,
    target: slice,
) -> float:
    """Return R² of the linear map from some columns to others: fitted on moments, measured on other rows.

        B = (Σ_ss + ε I)⁻¹ Σ_st,   R² = 1 − Σ‖t − t̂‖²/Σ‖t − t̄‖²,   t̂ = μ_t + (s − μ_s) B

    with the mean t̄ of the rows themselves, so that predicting their mean has R² 0.
    """
    own = covariance[source, source]
    ridge = RIDGE * np.trace(own) / len(own) * np.eye(len(own))
    weights = np.linalg.solve(own + ridge, covariance[source, target])
    wide = rows.astype(np.float64)
    predicted = mean[target] + (wide[:, source] - mean[source]) @ weights
    truth = wide[:, target]
    left = np.square(truth - predicted).sum()
    return float(1 - left / np.square(truth - truth.mean(axis=0)).sum())


def _scores(  # noqa: PLR0917  one teacher out of the command's own arguments
    each: StoredMoments, stored: StoredMoments, splits: Sequence[str], floor: float, layout: Layout, runtime: Runtime
) -> dict[str, dict[str, float]]:
    moments = each.by_pre_norm.get("l2") or next(iter(each.by_pre_norm.values()))
    spaces = ensemble_spaces(reference_spaces(moments, floor), each.teacher, stored, floor)
    by_split = {}
    for split in splits:
        store = open_store(layout.embeddings(split), each.teacher, runtime.verify)
        scores = {
            rule: score
            for rule in available_rules(("clip", "whitened"), moments)
            if (score := _score(store, rule, spaces)) is not None
        }
        if scores:
            by_split[split] = scores
    return by_split


def _score(store: EmbeddingStore, rule: str, spaces: ReferenceSpaces) -> float | None:
    """Return the accuracy of a labelled set, or the mean recall at 1 of a captioned one; None without texts."""
    rows = store.image().load()
    if store.labels is not None and store.has_prompts:
        classes = prompt_vectors(rule, store.prompts(), spaces)
        return classify(image_vectors(rule, rows, spaces), classes, store.labels).accuracy
    if not store.has_captions:
        return None
    pairs = ground_truth_pairs(store.offsets, store.caption_hashes())
    ways = score_retrieval(rule, rows, store.text().load(), pairs, spaces)
    return float(np.mean([ways[way]["R@1"] for way in DIRECTIONS]))


def _explained(stored: StoredMoments, layout: Layout, runtime: Runtime) -> list[LinearFit]:
    """Return all ordered pairs of teachers that were measured together."""
    fits: dict[tuple[str, str], LinearFit] = {}
    for joint in stored.others.values():
        sizes = widths(joint.teacher)
        if not sizes:
            continue
        names = [_name(stored, member) for member in members(joint.teacher)]
        ends = np.cumsum(sizes)
        blocks = [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]
        rows = open_store(layout.embeddings("val"), joint.teacher, runtime.verify).image()[:ROWS]
        image = joint.for_norm("l2").image
        for i, source in enumerate(names):
            for j, target in enumerate(names):
                if i != j and (source, target) not in fits:
                    r2 = explained_variance(image.covariance, image.mean, rows, blocks[i], blocks[j])
                    cka = linear_cka(l2_normalize(rows[:, blocks[i]]), l2_normalize(rows[:, blocks[j]]))
                    fits[source, target] = LinearFit(source, target, r2, cka)
    return list(fits.values())


def _name(stored: StoredMoments, teacher: object) -> str:
    teachers = {stored.name: stored, **stored.others}
    return next(name for name, each in teachers.items() if each.teacher == teacher)


def _verdict(name: str, split: str, together: float, alone: dict[str, float], count: int) -> str:
    """Return whether an ensemble's ceiling exceeds its best member's by more than two standard errors."""
    best = max(alone, key=lambda part: alone[part])
    error = sqrt(max(alone[best] * (1 - alone[best]), 1e-12) / count)
    gain = together - alone[best]
    comparison = f"{name} on {split}: {100 * together:.1f} beside {100 * alone[best]:.1f} of {best} alone"
    if len(alone) < 2:
        return f"{comparison}: only {best} reads text, so the ensemble scores as it does"
    if gain > TWICE * error:
        return f"{comparison}: the ensemble is worth {100 * gain:.1f} points"
    if gain < -TWICE * error:
        return f"{comparison}: the ensemble costs {-100 * gain:.1f} points; use {best} alone, or heads"
    return f"{comparison}: no difference ({100 * TWICE * error:.1f} points would be one)"
