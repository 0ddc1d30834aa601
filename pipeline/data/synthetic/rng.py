"""Random numbers that depend only on a name and a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np

T = TypeVar("T")

BLOCK = 128
"""Numbers drawn at a time; one scene needs about two hundred."""


class SceneRng:
    """Independent random numbers for scene `number` of stream `stream`.

    Philox is a keyed permutation of a counter (Salmon et al., 2011): key (seed, stream), counter (·, ·, ·, number). Two
    scenes share no block unless seed, stream and number all agree, and no scene depends on earlier ones. Only raw
    integers of numpy are used, which are the same in every version.
    """

    def __init__(self, stream: int, number: int, seed: int = 0) -> None:
        key = np.array([seed, stream], dtype=np.uint64)
        counter = np.array([0, 0, 0, number], dtype=np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)
        self._left: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a uniform number in [low, high): 53 random bits over 2⁵³."""
        if not self._left:
            raw = np.asarray(self._bits.random_raw(BLOCK), dtype=np.uint64)
            self._left = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
        return low + (high - low) * self._left.pop()

    def bernoulli(self, probability: float) -> bool:
        """Return true with this probability."""
        return self.uniform() < probability

    def choice(self, choices: Sequence[T]) -> T:
        """Return one of the choices, uniformly."""
        return choices[int(self.uniform() * len(choices))]

    def zipf(self, choices: Sequence[T], exponent: float) -> T:
        """Return one of the choices; rank r (from 1) has probability proportional to r^-exponent (Zipf, 1949)."""
        heights = list(accumulate(rank**-exponent for rank in range(1, len(choices) + 1)))
        mark = self.uniform() * heights[-1]
        return next((choice for choice, height in zip(choices, heights, strict=True) if mark < height), choices[-1])
