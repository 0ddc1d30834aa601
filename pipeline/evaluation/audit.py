"""Score the teacher in a target space under every rule: the ceiling of students trained there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cache.reader import EmbeddingStore
from cache.shard import PromptShard
from pipeline.evaluation.metrics.calibration import fit_pair_logit_scale
from pipeline.evaluation.metrics.retrieval import (
    DIRECTIONS,
    chance_ranks,
    ground_truth_pairs,
    score_retrieval,
)
from pipeline.evaluation.metrics.zero_shot import classify
from pipeline.evaluation.scoring_rules import (
    RULES,
    ReferenceSpaces,
    image_vectors,
    prompt_vectors,
    score_factors,
    score_vectors,
)
from pipeline.whitening.diagnostics import StorageNoise
from pipeline.whitening.spaces import TargetSpace

IN_SPACE = "own"
"""Cosine in the target space itself, as in the published study."""
ALL_RULES = (IN_SPACE, *RULES)
PAIRS = 500
"""Held-out pairs for fitting a logit scale; it computes n² scores."""
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class CaptionedSplit:
    """Images and captions of a held-out split."""

    name: str
    image: Float[np.ndarray, "n d"]
    text: Float[np.ndarray, "m d"]
    pairs: Int[np.ndarray, "p 2"]
    """(image, caption) of every correct pair."""
    first_captions: Int[np.ndarray, "f 2"]
    """(image, its first caption) of the images with captions."""

    @property
    def chance(self) -> float:
        """Return the recall at 1 of a random order, mean of both directions."""
        return float(np.mean([chance_ranks(self.pairs).recall(1), chance_ranks(self.pairs[:, ::-1]).recall(1)]))


@dataclass(frozen=True)
class ZeroShotSplit:
    """A zero-shot set: images, classes and prompts."""

    name: str
    image: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    prompts: PromptShard

    @property
    def chance(self) -> float:
        """Return the accuracy at chance."""
        return 1 / len(self.prompts.classes)


@dataclass(frozen=True)
class AuditInputs:
    """Held-out data on which target spaces are scored."""

    image: Float[np.ndarray, "n d"]
    gallery: CaptionedSplit | None
    sets: Sequence[ZeroShotSplit]
    reference: ReferenceSpaces

    @property
    def chance(self) -> dict[str, float]:
        """Return chance on each set and on the gallery."""
        levels = {labeled.name: labeled.chance for labeled in self.sets}
        return {**levels, self.gallery.name: self.gallery.chance} if self.gallery else levels


@dataclass(frozen=True)
class SpaceAudit:
    """One target space: the teacher's scores in it, and diagnostics of its fit."""

    name: str
    method: str
    scores: Scores
    """By set or split, then by rule: accuracy, or mean recall at 1 of both directions, as fractions."""
    logit_scale: float | None
    condition: float
    floored: tuple[int, ...]
    """Number of directions raised by the floor, for images and texts."""
    round_trip_error: float
    split_half_distance: float


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit, before training."""

    teacher: Mapping[str, Any]
    counts: Mapping[str, int]
    """Dimension, and numbers of train images, train texts and held-out rows."""
    chance: Mapping[str, float]
    ceiling: Scores
    """The teacher's scores under every rule, without a target space."""
    spaces: tuple[SpaceAudit, ...]
    targets: tuple[str, ...]
    """Names of the target spaces in the parameters; the others are for comparison."""
    refused: Mapping[str, str]
    """Spaces that could not be fitted, and the reasons."""
    noise: Mapping[str, tuple[StorageNoise, StorageNoise]]
    """By modality: noise that float16 and bfloat16 storage would add."""
    spectra: Mapping[str, Float[np.ndarray, " d"]]
    correlation: Float[np.ndarray, " d"]
    """Correlation of whitened images and texts along each axis of the images' covariance; empty without captions."""
    advice: tuple[str, ...] = ()


def read_gallery(store: EmbeddingStore, images: int) -> CaptionedSplit | None:
    """Return the first images of a split with all their captions, or None if it has none."""
    if not store.has_captions:
        return None
    offsets = store.offsets[: min(images, store.rows) + 1]
    captioned = np.flatnonzero(np.diff(offsets))
    firsts = np.stack([captioned, offsets[captioned]], axis=1)
    sha = store.caption_hashes()[: offsets[-1]]
    image, text = store.image()[: len(offsets) - 1], store.text()[: offsets[-1]]
    return CaptionedSplit(store.manifest.split, image, text, ground_truth_pairs(offsets, sha), firsts)


def read_labeled(store: EmbeddingStore) -> ZeroShotSplit:
    """Return a zero-shot set."""
    return ZeroShotSplit(store.manifest.split, store.image().load(), np.asarray(store.labels), store.prompts())


def score_space(space: TargetSpace, inputs: AuditInputs) -> Scores:
    """Return the scores of a perfect student of this space: in the space, and under each rule after un-whitening.

    `own` compares in the space; the other rules use x̂, the embedding after un-whitening.
    """
    spaces = {**inputs.reference, IN_SPACE: space}
    scores: Scores = {}
    for labeled in inputs.sets:
        images = _rows_by_rule(space, labeled.image, spaces)
        scores[labeled.name] = {rule: _accuracy(rule, rows, labeled, spaces) for rule, rows in images.items()}
    if (gallery := inputs.gallery) is not None:
        images = _rows_by_rule(space, gallery.image, spaces)
        scores[gallery.name] = {
            rule: _recall(score_retrieval(rule, rows, gallery.text, gallery.pairs, spaces))
            for rule, rows in images.items()
        }
    return scores


def fit_space_logit_scale(space: TargetSpace, gallery: CaptionedSplit) -> float:
    """Return the logit scale of a space, fitted to held-out images and their first captions."""
    image, text = gallery.first_captions[:PAIRS].T
    return fit_pair_logit_scale(*score_vectors(IN_SPACE, gallery.image[image], gallery.text[text], {IN_SPACE: space}))


def _rows_by_rule(
    space: TargetSpace, image: Float[np.ndarray, "n d"], spaces: ReferenceSpaces
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Return the rows to compare by rule: embeddings for the space's own rule, x̂ for the others."""
    back = space.to_embedding(space.to_target(image))
    without_space = {name for name, rule in RULES.items() if rule.method is None}
    rules = {*without_space, *spaces} - (set() if space.text else {IN_SPACE})
    return {rule: image if rule == IN_SPACE else back for rule in (IN_SPACE, *RULES) if rule in rules}


def _accuracy(rule: str, image: Float[np.ndarray, "n d"], labeled: ZeroShotSplit, spaces: ReferenceSpaces) -> float:
    classes = prompt_vectors(rule, labeled.prompts, spaces)
    return classify(*score_factors(rule, image_vectors(rule, image, spaces), classes), labeled.labels).accuracy


def _recall(directions: Mapping[str, Mapping[str, float]]) -> float:
    return float(np.mean([directions[way]["R@1"] for way in DIRECTIONS]))
