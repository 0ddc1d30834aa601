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
    """Of the reference spaces: eigenvalues below this share of their mean are raised to it."""
    neighbors: int = renamed("neighbours", default=10, ge=1)
    """Nearest images compared between student and teacher."""
    max_images: int = renamed("sample", default=1000, ge=10)
    """At most so many images for what costs the square of their number, and for probes."""
    normality_group_rows: int = renamed("group", default=250, ge=20)
    """Rows in a group of the tests of normality."""
    map_pairs: int = renamed("map", default=100, ge=0)
    """Pairs on the flat maps of the report; t-SNE takes a second for 100; 0 draws none."""
    near_duplicate_cosine: float = renamed("twin", default=0.98, gt=0, le=1)
    """Cosine from which a training image is called a near-duplicate of an evaluation image."""
    scorers: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """Scorers of `relate` that the student's tokens are scored by, on choice sets and on the first of retrieval."""
    rerank: int = Field(default=32, ge=2, exclude_if=lambda count: count == 32)
    """First answers of retrieval by CLIP's cosine that scorers put in an order of their own."""
    seed: int = Field(default=0, ge=0)
    """Of random projections, of the Gaussian null and of t-SNE."""


@dataclass(frozen=True)
class SplitEmbeddings:
    """A split as the student and as its teacher embed it."""

    name: str
    store: EmbeddingStore
    student: Float[np.ndarray, "n d"]
    teacher: Float[np.ndarray, "n d"]
    student_text: Float[np.ndarray, "m d"] | None = None
    """The student's embeddings of the captions, or of the class prompts, if it has a text tower."""
    domains: tuple[str, ...] = ()
    """The domain of each image, where the split has several."""

    @property
    def labeled(self) -> bool:
        """Return whether the split has classes, and words for them."""
        return self.store.has_classes

    @property
    def captioned(self) -> bool:
        """Return whether the split has texts."""
        return self.store.has_captions

    @property
    def has_whole_texts(self) -> bool:
        """Return whether it has texts by its teacher, or by each one of an ensemble: no dimension is empty."""
        facts = self.store.manifest.teacher
        return self.captioned and all(member.get("context_length", 1) for member in members(facts))

    def subsample(self, count: int) -> Int[np.ndarray, " k"]:
        """Return the row numbers of at most `count` images in order, drawn at random but the same each time."""
        return _subsample_rows(len(self.teacher), count)

    def pairs(self, count: int) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, "p d"]]:
        """Return at most `count` images with captions, and the embedding of each one's first."""
        offsets = self.store.offsets
        with_captions = np.flatnonzero(np.diff(offsets))
        rows = with_captions[_subsample_rows(len(with_captions), count)]
        return rows, self.store.text()[offsets[rows]]


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything that a metric may read."""

    val: SplitEmbeddings
    labeled: Sequence[SplitEmbeddings]
    """Zero-shot sets: images with labels, and class prompts."""
    rules: Sequence[str]
    """Scoring rules of the parameters that the moments allow."""
    spaces: ReferenceSpaces
    moments: CoMoments
    """Of train, as the teacher embeds it."""
    params: EvaluateParams
    layout: Layout
    folder: Path = Path()
    """The student's own."""
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
    """Return at most `count` of n row numbers in order, drawn at random but the same each time.

    Not evenly spread: where classes take turns, every tenth row may be of one class.
    """
    return np.sort(np.random.default_rng(0).permutation(n)[:count])
