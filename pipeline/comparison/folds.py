"""Folds of a labelled set that hold out one domain: training rows, validation rows for tuning, test rows.

Nothing of the held-out domain is read before the test: no image, no embedding, no template. Target spaces, temperatures
and class vectors are fitted for each fold to the rows of the other domains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, UInt8

from cache.normalization import l2_normalize
from pipeline.evaluation.metrics.probes import fit_linear_words
from pipeline.evaluation.scoring_rules import select_templates
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.splits import EmbeddedSplit
from pipeline.students.inputs.targets import Targets, class_vectors
from pipeline.whitening.comoments import CoMoments, NormMode
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetSpace

Words = Literal["prompts", "sources"]
CHUNK = 256
"""Number of images whose pixels are in memory at once during full evaluations."""


@dataclass(frozen=True)
class SelectedPixels:
    """Pixels of some rows of a split, numbered from 0."""

    pixels: PixelStore
    rows: Int64[np.ndarray, " n"]

    def batch(
        self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """Return the pixels of one view of each row."""
        return self.pixels.batch(self.rows[rows], boxes, flips, size)


@dataclass(frozen=True)
class LabeledRows:
    """Some rows of a packed, embedded and labelled split."""

    split: EmbeddedSplit
    pixels: PixelStore
    rows: Int64[np.ndarray, " n"]

    def embedding(self, view: int = 0) -> Float[np.ndarray, "n d"]:
        """Return the teacher's embeddings of these rows."""
        rows: Float[np.ndarray, "n d"] = self.split.store.image(view)[self.rows]
        return rows

    @cached_property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return their classes."""
        labels: Int64[np.ndarray, " n"] = np.asarray(self.split.store.labels)[self.rows]
        return labels

    @cached_property
    def keys(self) -> list[str]:
        """Return their keys."""
        return [self.split.store.keys[row] for row in self.rows]

    @cached_property
    def domains(self) -> list[str]:
        """Return their domains."""
        return [self.split.packed.domain_of(key) for key in self.keys]

    def selected(self, mask: Bool[np.ndarray, " n"]) -> LabeledRows:
        """Return some of them."""
        return replace(self, rows=self.rows[mask])

    def center(self, rows: Int64[np.ndarray, " b"], size: int) -> UInt8[np.ndarray, "b s s 3"]:
        """Return the center views of some of them, by their numbers here."""
        boxes, flips = self._center_view
        return self.pixels.batch(self.rows[rows], boxes[rows], flips[rows], size)

    def chunks(self) -> list[Int64[np.ndarray, " b"]]:
        """Return row numbers in chunks whose pixels fit into memory."""
        numbers = np.arange(len(self.rows))
        return [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]

    def image_digests(self, size: int) -> list[str]:
        """Return a hash of the pixels of each image, independent of its file."""
        return [
            hashlib.sha256(image.tobytes()).hexdigest() for chunk in self.chunks() for image in self.center(chunk, size)
        ]

    @cached_property
    def _center_view(self) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
        store = self.split.store
        return store.boxes(0)[self.rows], store.flips(0)[self.rows]


@dataclass(frozen=True)
class Fold:
    """A held-out domain, and the source domains."""

    held_out: str
    train: LabeledRows
    validation: LabeledRows
    """Rows of `val` of the source domains, for choosing a learning rate."""
    test: tuple[LabeledRows, ...]
    """All rows of the held-out domain, of `train` and of `val`."""
    words: Words = "prompts"

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return the classes of the test rows."""
        return np.concatenate([rows.labels for rows in self.test])

    @property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """Return the source domains with their templates."""
        domains = self.train.split.packed.domains
        return {name: templates for name, templates in domains.items() if name != self.held_out}

    def moments(self, pre_norm: NormMode) -> CoMoments:
        """Measure the training rows; there are no captions."""
        return estimate_comoments(
            pre_norm, [self.train.embedding(view) for view in range(self.train.split.store.views)]
        )

    def targets(self, space: TargetSpace, views: int | None = None) -> Targets:
        """Return the training targets in a target space: embeddings, labels and class vectors."""
        store, rows = self.train.split.store, self.train.rows
        each = range(store.views if views is None else min(views, store.views))
        classes, domains = self.class_words(space)
        return Targets(
            image=np.stack([space.to_target(self.train.embedding(view), "image") for view in each]),
            boxes=np.stack([store.boxes(view)[rows] for view in each]),
            flips=np.stack([store.flips(view)[rows] for view in each]),
            text=None,
            offsets=None,
            labels=self.train.labels,
            classes=classes,
            domains=domains,
        )

    def class_words(self, space: TargetSpace) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, "c j k"]]:
        """Return the class vectors, over all source domains and for each."""
        if self.words == "sources":
            return self._fitted_words(space)
        prompts = self.train.split.store.prompts()
        own = {name: select_templates(prompts, templates) for name, templates in self.sources.items()}
        every = tuple(dict.fromkeys(template for templates in self.sources.values() for template in templates))
        each = [class_vectors(prompts_of_one, space) for prompts_of_one in own.values()]
        return class_vectors(select_templates(prompts, every), space), np.stack(each, axis=1)

    def _fitted_words(self, space: TargetSpace) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, "c j k"]]:
        """Fit class vectors to the sources' images, for a teacher without useful class prompts."""
        rows, domains = l2_normalize(space.to_target(self.train.embedding())), np.array(self.train.domains)
        count = len(self.train.split.store.prompts().classes)
        words = fit_linear_words(rows, self.train.labels, count)
        own = [fit_linear_words(rows[domains == d], self.train.labels[domains == d], count) for d in self.sources]
        # A domain without a class uses the class vector over all domains.
        return words, np.stack([np.where(each.any(axis=1, keepdims=True), each, words) for each in own], axis=1)


def refuse_leaks(splits: Sequence[LabeledRows], held_out: Sequence[str], size: int) -> None:
    """Refuse sources that contain an image of a held-out domain.

    Raises:
        UsageError: names the first one, and its copy.
    """
    places: dict[str, tuple[str, str]] = {}
    for rows in splits:
        for digest, key, domain in zip(rows.image_digests(size), rows.keys, rows.domains, strict=True):
            other, other_domain = places.setdefault(digest, (f"'{key}' of {rows.split.packed.split}", domain))
            if other_domain != domain and not {domain, other_domain}.isdisjoint(held_out):
                raise UsageError(
                    f"compare: '{key}' of {rows.split.packed.split} shows the same as {other}, and one of the domains "
                    f"'{domain}' and '{other_domain}' is held out: what is tested on must not be learnt from. Remove "
                    "one of the two, and run `index`, `pack` and `embed` again."
                )


def make_folds(
    train: LabeledRows, validation: LabeledRows, held_out: Sequence[str], words: Words = "prompts"
) -> dict[str, Fold]:
    """Hold out each of some domains in turn.

    Raises:
        UsageError: no such domain, a split without domains, or two splits with different classes.
    """
    domains = sorted(train.split.packed.domains)
    for rows in (train, validation):
        if not rows.split.packed.domains:
            raise UsageError(
                f"compare.leave_out: '{rows.split.packed.split}' has no domains: expected `source: several` of "
                "labelled sources (docs/domains.md)"
            )
    if train.split.packed.classes != validation.split.packed.classes:
        raise UsageError("compare.leave_out: train and val have different classes")
    if len(domains) < 2:
        raise UsageError(f"compare.leave_out: nothing is left to learn from without '{domains[0]}'")
    for name in held_out:
        if name not in domains:
            raise UsageError(f"compare.leave_out: no domain '{name}' in train{did_you_mean(name, domains)}")
    return {name: _fold(name, train, validation, words) for name in held_out}


def _fold(held_out: str, train: LabeledRows, validation: LabeledRows, words: Words) -> Fold:
    away = [np.array([domain == held_out for domain in rows.domains]) for rows in (train, validation)]
    test = tuple(rows.selected(gone) for rows, gone in zip((train, validation), away, strict=True))
    return Fold(held_out, train.selected(~away[0]), validation.selected(~away[1]), test, words)


def every_row(split: EmbeddedSplit, pixels: PixelStore) -> LabeledRows:
    """Return all rows of a labelled split.

    Raises:
        UsageError: it has no labels.
    """
    if not split.store.has_classes:
        raise UsageError(f"compare.leave_out: the split '{split.packed.split}' has no labels")
    return LabeledRows(split, pixels, np.arange(split.store.rows))
