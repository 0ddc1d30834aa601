"""Tokens of a choice set as arrays, in memory or mapped from the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from pipeline.relations.scorers import ImageTokens, TextTokens


@dataclass(frozen=True)
class TokenArrays:
    """Tokens by row of image and text, converted to float32 on access."""

    image_pooled: Float[np.ndarray, "n d"]
    patches: Float[np.ndarray, "n p d"]
    text_pooled: Float[np.ndarray, "m d"]
    words: Float[np.ndarray, "m t d"]
    valid: np.ndarray
    """(m, t) bool: up to the end of text."""
    functional_row: Int[np.ndarray, "m t"]
    shuffled: bool = False
    """Whether each image's patches are permuted, as a control without positions."""

    def images(self, rows: Int[np.ndarray, " b"]) -> ImageTokens:
        """Return the tokens of some images."""
        patches = self.patches[rows].astype(np.float32)
        if self.shuffled:
            patches = np.stack([shuffle_patches(one, int(row)) for one, row in zip(patches, rows, strict=True)])
        return ImageTokens(torch.from_numpy(self.image_pooled[rows]), torch.from_numpy(patches))

    def texts(self, rows: Int[np.ndarray, " b"]) -> TextTokens:
        """Return the tokens of some texts."""
        return TextTokens(
            torch.from_numpy(self.text_pooled[rows]),
            torch.from_numpy(self.words[rows].astype(np.float32)),
            torch.from_numpy(self.valid[rows]),
            torch.from_numpy(self.functional_row[rows]),
        )


def shuffle_patches(patches: Float[np.ndarray, "p d"], row: int) -> Float[np.ndarray, "p d"]:
    """Return the patches of image `row` in a fixed random order."""
    return patches[np.random.default_rng([7, row]).permutation(len(patches))]


def pad_words(
    tokens: Float[np.ndarray, "w d"], offsets: Int[np.ndarray, " k"], columns: int
) -> tuple[Float[np.ndarray, "m t d"], np.ndarray]:
    """Return ragged word tokens as rows of `columns`, padded with zeros, and a mask of the valid ones."""
    lengths = np.diff(offsets)
    valid = np.arange(columns)[None] < lengths[:, None]
    padded = np.zeros((len(lengths), columns, tokens.shape[1]), tokens.dtype)
    padded[valid] = tokens
    return padded, valid
