"""Inputs of every metric: the embeddings of both models, reference spaces, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from cache.reader import EmbeddingStore
from cache.teachers import members
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.scoring_rules import ReferenceSpaces, Rule
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection, Runtime, renamed
from pipeline.whitening.comoments import CoMoments

Tables = dict[str, CsvTable]
MetricsAndTables = tuple[dict[str, Any], Tables]
"""Entries of metrics.json, and CSV tables by name."""


class EvaluateParams(ParamsSection):
    """The `evaluate:` section."""

    rules: tuple[Rule, ...] = Field(default=("clip", "whitened"), min_length=1)
    """Scoring rules; `clip` is CLIP's own cosine."""
    floor: float = Field(default=0.01, ge=0)
    """For the reference spaces: eigenvalues below this fraction of their mean are raised to it."""
    neighbors: int = renamed("neighbours", default=10, ge=1)
    """Number of nearest neighbors compared between student and teacher."""
    max_images: int = renamed("sample", default=1000, ge=10)
    """Maximum number of images for metrics of quadratic cost, and for probes."""
    normality_group_rows: int = renamed("group", default=250, ge=20)
    """Rows per group of the normality tests."""
    map_pairs: int = renamed("map", default=100, ge=0)
    """Pairs on the two-dimensional maps of the report; t-SNE takes a second for 100; 0: no maps."""
    near_duplicate_cosine: float = renamed("twin", default=0.98, gt=0, le=1)
    """Smallest cosine at which a training image counts as a near-duplicate of an evaluation image."""
    scorers: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """Scorers of `relate` applied to the student's tokens, on choice sets and for re-ranking."""
    rerank: int = Field(default=32, ge=2, exclude_if=lambda count: count == 32)
    """Number of first retrieval results by CLIP's cosine that scorers re-rank."""
    seed: int = Field(default=0, ge=0)
    """Random seed of projections, of the Gaussian null and of t-SNE."""


@dataclass(frozen=True)
class SplitEmbeddings:
    """Embeddings of a split by the student and by its teacher."""

    name: str
    store: EmbeddingStore
    student: Float[np.ndarray, "n d"]
    teacher: Float[np.ndarray, "n d"]
    student_text: Float[np.ndarray, "m d"] | None = None
    """The student's embeddings of the captions or class prompts, if it has a text tower."""
    domains: tuple[str, ...] = ()
    """The domain of each image, if the split has several."""

    @property
    def labeled(self) -> bool:
        """Return whether the split has classes and class prompts."""
        return self.store.has_classes

    @property
    def captioned(self) -> bool:
        """Return whether the split has texts."""
        return self.store.has_captions

    @property
    def has_whole_texts(self) -> bool:
        """Return whether the teacher, or every member of an ensemble, embeds texts, so that no dimension is empty."""
        facts = self.store.manifest.teacher
        return self.captioned and all(member.get("context_length", 1) for member in members(facts))

    def subsample(self, count: int) -> Int[np.ndarray, " k"]:
        """Return at most `count` sorted row numbers, a fixed random sample."""
        return _subsample_rows(len(self.teacher), count)

    def pairs(self, count: int) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, "p d"]]:
        """Return at most `count` images with captions, and the embedding of each one's first caption."""
        offsets = self.store.offsets
        with_captions = np.flatnonzero(np.diff(offsets))
        rows = with_captions[_subsample_rows(len(with_captions), count)]
        return rows, self.store.text()[offsets[rows]]


@dataclass(frozen=True)
class EvaluationInputs:
    """Inputs of all metrics."""

    val: SplitEmbeddings
    labeled: Sequence[SplitEmbeddings]
    """Zero-shot sets: images with labels, and class prompts."""
    rules: Sequence[str]
    """Scoring rules of the parameters that the moments allow."""
    spaces: ReferenceSpaces
    moments: CoMoments
    """Moments of the teacher's embeddings of train."""
    params: EvaluateParams
    layout: Layout
    folder: Path = Path()
    """The student's folder."""
    choice_sets: Sequence[str] = ()
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def labeled_splits(self) -> list[SplitEmbeddings]:
        """Return the zero-shot sets, behind val where it has labels."""
        return [*([self.val] if self.val.labeled else []), *self.labeled]

    @property
    def has_domains(self) -> bool:
        """Return whether a labelled split has several domains."""
        return any(split.domains for split in self.labeled_splits)


def _subsample_rows(n: int, count: int) -> Int[np.ndarray, " k"]:
    """Return at most `count` of n row numbers, sorted, a fixed random sample.

    Not evenly spaced: if classes alternate, every tenth row may have the same class.
    """
    return np.sort(np.random.default_rng(0).permutation(n)[:count])
