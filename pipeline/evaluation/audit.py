"""The teacher's own score in a target space under every rule: the ceiling of students trained there."""

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
"""Cosine in the target space itself, each modality by its own transform: how whitened students were first scored."""
ALL_RULES = (IN_SPACE, *RULES)
PAIRS = 500
"""Held-out pairs that a logit scale is fitted on: their scores are n²."""
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class CaptionedSplit:
    """Images and captions of a held-out split."""

    name: str
    image: Float[np.ndarray, "n d"]
    text: Float[np.ndarray, "m d"]
    pairs: Int[np.ndarray, "p 2"]
    """(image, caption) of every right answer."""
    first_captions: Int[np.ndarray, "f 2"]
    """(image, its first caption) of the images that have any."""

    @property
    def chance(self) -> float:
        """Return the recall at 1 of a blind order, mean of both ways."""
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
        """Return the accuracy of guessing."""
        return 1 / len(self.prompts.classes)


@dataclass(frozen=True)
class AuditInputs:
    """Held-out data that target spaces are scored on."""

    image: Float[np.ndarray, "n d"]
    gallery: CaptionedSplit | None
    sets: Sequence[ZeroShotSplit]
    reference: ReferenceSpaces

    @property
    def chance(self) -> dict[str, float]:
        """Return the score of guessing on each set and on the gallery."""
        found = {labeled.name: labeled.chance for labeled in self.sets}
        return {**found, self.gallery.name: self.gallery.chance} if self.gallery else found


@dataclass(frozen=True)
class SpaceAudit:
    """One target space: the teacher's scores in it, and diagnostics of its fit."""

    name: str
    method: str
    scores: Scores
    """By set or split, by rule: accuracy, or mean recall at 1 of both ways, as shares."""
    logit_scale: float | None
    condition: float
    floored: tuple[int, ...]
    """Directions raised by the floor: of images, and of texts."""
    identity_error: float
    instability: float


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit, before training."""

    teacher: Mapping[str, Any]
    counts: Mapping[str, int]
    """Dimensions, rows of train images and of train texts, and rows of what was held out."""
    chance: Mapping[str, float]
    ceiling: Scores
    """The teacher's own scores, by every rule, with no target space in between."""
    spaces: tuple[SpaceAudit, ...]
    targets: tuple[str, ...]
    """Names of the params' own target spaces; the others are there to compare."""
    refused: Mapping[str, str]
    """Spaces that could not be fitted, and why."""
    noise: Mapping[str, tuple[StorageNoise, StorageNoise]]
    """By modality: what float16 and bfloat16 would add to the cache."""
    spectra: Mapping[str, Float[np.ndarray, " d"]]
    correlation: Float[np.ndarray, " d"]
    """Of images and texts along each axis of the images' covariance, both whitened; empty without captions."""
    advice: tuple[str, ...] = ()


def read_gallery(store: EmbeddingStore, images: int) -> CaptionedSplit | None:
    """Return the first images of a split with all their captions, or nothing if it has none."""
    if not store.has_captions:
        return None
    offsets = store.offsets[: min(images, store.rows) + 1]
    captioned = np.flatnonzero(np.diff(offsets))
    firsts = np.stack([captioned, offsets[captioned]], axis=1)
    sha = store.caption_hashes()[: offsets[-1]]
    image, text = store.image()[: len(offsets) - 1], store.text()[: offsets[-1]]
    return CaptionedSplit(store.manifest.split, image, text, ground_truth_pairs(offsets, sha), firsts)


def read_labeled(store: EmbeddingStore) -> ZeroShotSplit:
    """Return all of a zero-shot set."""
    return ZeroShotSplit(store.manifest.split, store.image().load(), np.asarray(store.labels), store.prompts())


def score_space(space: TargetSpace, held: AuditInputs) -> Scores:
    """Return the teacher's scores after an exact student of this space: to the space, and by each rule out of it.

    `own` compares in the space; the other rules get x̂, the embedding that the target stands for.
    """
    spaces = {**held.reference, IN_SPACE: space}
    scores: Scores = {}
    for labeled in held.sets:
        images = _rows_by_rule(space, labeled.image, spaces)
        scores[labeled.name] = {rule: _accuracy(rule, rows, labeled, spaces) for rule, rows in images.items()}
    if (gallery := held.gallery) is not None:
        images = _rows_by_rule(space, gallery.image, spaces)
        scores[gallery.name] = {
            rule: _recall(score_retrieval(rule, rows, gallery.text, gallery.pairs, spaces))
            for rule, rows in images.items()
        }
    return scores


def fit_space_logit_scale(space: TargetSpace, gallery: CaptionedSplit) -> float:
    """Return the scale that cosines in a space need, fitted on held-out images and their first captions."""
    image, text = gallery.first_captions[:PAIRS].T
    return fit_pair_logit_scale(*score_vectors(IN_SPACE, gallery.image[image], gallery.text[text], {IN_SPACE: space}))


def _rows_by_rule(
    space: TargetSpace, image: Float[np.ndarray, "n d"], spaces: ReferenceSpaces
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Return by rule the rows to compare: the embedding for the space's own rule, x̂ for the others."""
    back = space.to_embedding(space.to_target(image))
    known = {"clip", *spaces} - (set() if space.text else {IN_SPACE})
    return {rule: image if rule == IN_SPACE else back for rule in ALL_RULES if rule in known}


def _accuracy(rule: str, image: Float[np.ndarray, "n d"], labeled: ZeroShotSplit, spaces: ReferenceSpaces) -> float:
    classes = prompt_vectors(rule, labeled.prompts, spaces)
    return classify(*score_factors(rule, image_vectors(rule, image, spaces), classes), labeled.labels).accuracy


def _recall(found: Mapping[str, Mapping[str, float]]) -> float:
    return float(np.mean([found[way]["R@1"] for way in DIRECTIONS]))
