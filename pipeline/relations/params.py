"""The `relate:` section: scorers, training data and training parameters.

The token of a word such as `left` may be uninformative in a text tower. DCSM therefore replaces its column by a fixed
random row, which the network can learn to interpret. This module defines these functional words and their columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from pipeline.project.params import ParamsSection

PUBLISHED = ("above", "below", "left", "right", "small", "big", "not", "no", "without", "but", "absent")
"""The eleven functional words of the authors' list."""
Column = Literal["word", "published", "none"]
"""The word's own last token; the column of the published code; or no replacement."""
NO_ROW = -1


def functional_rows(
    captions: Sequence[str], word_of_token: Int[np.ndarray, "m t"], column: Column, words: Sequence[str] = PUBLISHED
) -> Int[np.ndarray, "m t"]:
    """Return for each token the number of the functional row that replaces it, or −1.

    `word_of_token` has the index of each token's word in `caption.split()`; −1: none, as for begin and end of text.

    The published code writes to `sentence.split(" ").index(word)`, which ignores the begin-of-text token and words of
    several tokens, so it is at least one column to the left of the word's own.
    """
    rows = np.full(word_of_token.shape, NO_ROW, np.int64)
    if column == "none":
        return rows
    number = {word: i for i, word in enumerate(words)}
    for i, caption in enumerate(captions):
        for position, word in enumerate(caption.split()):
            row = number.get(word.lower().strip(".,;:!?"))
            own = [position] if column == "published" else np.flatnonzero(word_of_token[i] == position)[-1:].tolist()
            if row is not None:
                rows[i, [token for token in own if token < len(word_of_token[i])]] = row  # for a truncated caption
    return rows


Kind = Literal["cosine", "late", "labclip", "dcsm", "dcsm-published"]
TOKENLESS = ("cosine", "labclip")
"""Kinds of scorers of pooled vectors, which need no tokens."""
FITTED = ("labclip", "dcsm", "dcsm-published")


class ScorerParams(ParamsSection):
    """`relate.<scorer>:`, parameters of one scorer."""

    kind: Kind
    epochs: int = Field(default=6, ge=1)
    groups: int = Field(default=4, ge=1)
    """Groups of questions per step."""
    negatives: Literal["batch", "group"] = Field(default="batch", exclude_if=lambda scope: scope == "batch")
    """Negatives of an image in a step: all texts, or those of its own group, the hard ones."""
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)
    columns: int = Field(default=32, ge=2)
    """Word columns of a map; a caption with more tokens is refused."""
    functional_words: tuple[str, ...] = PUBLISHED
    functional_column: Column = "word"
    """Column of a functional row: the word's own, that of the published code, or none."""
    shuffle_patches: bool = False
    """A control: patches of every image are permuted, which removes position and keeps content."""
