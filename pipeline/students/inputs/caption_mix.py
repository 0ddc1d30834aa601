"""Choice of the caption of each image: its own, or with a given probability one of an additional file.

With the files sorted by name, s_1, s_2, … their shares, and u a number in [0, 1) drawn from (seed, epoch, row), an
image uses file i where

    s_1 + … + s_(i−1) ≤ u < s_1 + … + s_i

and its own captions if u is beyond them all, or if that file has none of it. A second random number selects the
caption, as without files, so that shares of 0 and of 1 are the same as a single set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from pipeline.students.inputs.orders import RNG_STREAMS, Order
from pipeline.students.inputs.whitened_rows import even_rows, measured, take_columns

Rows = Int64[np.ndarray, " b"]
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples modulo 1 are evenly spread for any count."""
WHOLE = 1e-9
"""Tolerance of shares that add up to 1: 0.7 + 0.2 + 0.1 is less than 1 in floating point."""


@dataclass(frozen=True)
class CaptionSet:
    """Captions of every image of a split in a target space: arrays, or rows that are whitened when indexed."""

    text: Any
    """(m, k)"""
    offsets: Int64[np.ndarray, " n+1"]
    """Captions of image i are rows offsets[i] … offsets[i+1]."""
    tokens: Any = None
    """(m, l), for a student with a text tower."""
    share: float = 1.0
    """Share of the steps, for an additional file."""

    def captions_of(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the first caption of each image, and the one after its last."""
        return self.offsets[rows], self.offsets[rows + 1]

    @property
    def weight(self) -> float:
        """Return the share of all steps that use this file, which may lack some images."""
        return self.share * float(np.mean(np.diff(self.offsets) > 0))

    def columns(self, columns: slice) -> CaptionSet:
        """Return the same captions with some of their dimensions: one head's share of a target."""
        return replace(self, text=take_columns(self.text, columns))


def choose_sets(files: Sequence[CaptionSet], draws: Float[np.ndarray, " b"]) -> Rows:
    """Return the set of each number in [0, 1): i for the i-th file, 0 for the images' own captions."""
    ends = np.cumsum([file.share for file in files])
    if len(ends) and abs(ends[-1] - 1) < WHOLE:
        ends[-1] = 1.0
    numbers = np.searchsorted(ends, draws, side="right")
    return np.where(numbers < len(files), numbers + 1, 0).astype(np.int64)


def keep_present(sets: Rows, files: Sequence[CaptionSet], rows: Rows) -> Rows:
    """Return the chosen sets, with 0 for those without a caption of the image."""
    present = sets.copy()
    for number, file in enumerate(files, start=1):
        first, last = file.captions_of(rows)
        present[(sets == number) & (first == last)] = 0
    return present


def gather_rows(arrays: Sequence[Any], sets: Rows, numbers: Rows) -> np.ndarray:
    """Return one row for each pair of an array's number and a row's number."""
    if len(arrays) == 1:
        rows: np.ndarray = arrays[0][numbers]
        return rows
    masks = {number: sets == number for number in np.unique(sets).tolist()}
    parts = {number: arrays[number][numbers[mine]] for number, mine in masks.items()}
    first = next(iter(parts.values()))
    gathered = np.empty((len(numbers), first.shape[1]), first.dtype)
    for number, part in parts.items():
        gathered[masks[number]] = part
    return gathered


def representative_rows(own: CaptionSet, files: Sequence[CaptionSet]) -> Float[np.ndarray, "s k"]:
    """Return texts of all sets in their training proportions, for statistics of texts.

    As many as possible; a set that is used alone is returned whole, in its order.
    """
    weights = [1.0 - sum(file.weight for file in files), *(file.weight for file in files)]
    rows = [measured(each.text) for each in (own, *files)]
    total = min(len(each) / weight for each, weight in zip(rows, weights, strict=True) if weight > WHOLE)
    counts = [round(weight * total) for weight in weights]
    return np.concatenate(
        [each[even_rows(len(each), count)] for each, count in zip(rows, counts, strict=True) if count]
    )


def first_captions(own: CaptionSet, files: Sequence[CaptionSet], rows: Rows) -> Float[np.ndarray, "b k"]:
    """Return one text per image, the first of its set, with sets in their proportions; deterministic."""
    draws = np.modf((np.arange(len(rows)) + 0.5) * GOLDEN)[0]
    sets = keep_present(choose_sets(files, draws), files, rows)
    every = (own, *files)
    numbers = np.stack([each.captions_of(rows)[0] for each in every])[sets, np.arange(len(rows))]
    return gather_rows([each.text for each in every], sets, numbers)


@dataclass(frozen=True)
class BankDraw:
    """Captions drawn at a step as additional negatives, and a mask of those that belong to the step's own images."""

    text: Float[np.ndarray, "m k"]
    is_own: Bool[np.ndarray, "b m"]


@dataclass(frozen=True)
class CaptionSampler:
    """Captions of the images of a step: pure functions of (seed, epoch, row), those of the bank of (seed, step)."""

    own: CaptionSet
    files: tuple[CaptionSet, ...]
    order: Order
    seed: int
    max_captions: int | None = None
    """Number of captions used per image in each set, the first ones; default: all."""
    every: tuple[CaptionSet, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", (self.own, *self.files))

    def sets(self, epoch: int, rows: Rows) -> Rows:
        """Return the set of each image."""
        if not self.files:
            return np.zeros(len(rows), np.int64)
        return keep_present(choose_sets(self.files, self.order.draw(epoch, "caption_set", rows)), self.files, rows)

    def numbers(self, epoch: int, rows: Rows) -> Rows:
        """Return the number of each image's caption in its set."""
        sets, share = self.sets(epoch, rows), self.order.draw(epoch, "caption", rows)
        ranges = np.stack([each.captions_of(rows) for each in self.every])  # (sets, 2, b)
        first, last = ranges[sets, :, np.arange(len(rows))].T
        if self.max_captions is not None:
            last = np.minimum(last, first + self.max_captions)
        captions: Rows = first + (share * (last - first)).astype(np.int64)
        return captions

    def texts(self, epoch: int, rows: Rows) -> Float[np.ndarray, "b k"]:
        """Return the text of each image."""
        return gather_rows([each.text for each in self.every], self.sets(epoch, rows), self.numbers(epoch, rows))

    def tokens(self, epoch: int, rows: Rows) -> np.ndarray:
        """Return the tokens of each image's text."""
        return gather_rows([each.tokens for each in self.every], self.sets(epoch, rows), self.numbers(epoch, rows))

    def bank(self, step: int, rows: Rows, count: int) -> BankDraw:
        """Return captions of any images, from each set in its training proportion."""
        sets = self._bank_sets(step, count)
        each = [self._generator(step, "bank").integers(0, len(one.text), count) for one in self.every]
        numbers = np.stack(each)[sets, np.arange(count)]
        image = np.empty(count, np.int64)
        for number, one in enumerate(self.every):
            mine = sets == number
            image[mine] = np.searchsorted(one.offsets, numbers[mine], side="right") - 1
        return BankDraw(gather_rows([one.text for one in self.every], sets, numbers), image == rows[:, None])

    def _bank_sets(self, step: int, count: int) -> Rows:
        if not self.files:
            return np.zeros(count, np.int64)
        weighted = [replace(file, share=file.weight) for file in self.files]
        return choose_sets(weighted, self._generator(step, "bank_set").random(count))

    def _generator(self, step: int, kind: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, RNG_STREAMS[kind]])
