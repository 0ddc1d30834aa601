"""The `relate:` section: which scorers are fitted, on what, and how long.

A text tower that never read `left` has no token for it worth comparing with patches, so DCSM replaces the column of
such a word by a fixed random row: a mark that the network can learn to read. Which words, and which column of a map
belongs to them, stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from pipeline.project.params import ParamsSection

PUBLISHED = ("above", "below", "left", "right", "small", "big", "not", "no", "without", "but", "absent")
"""The eleven words of the authors' list."""
Column = Literal["word", "published", "none"]
"""The word's own last token; the column that the published code writes to; or no replacement."""
NO_ROW = -1


def functional_rows(
    captions: Sequence[str], word_of_token: Int[np.ndarray, "m t"], column: Column, words: Sequence[str] = PUBLISHED
) -> Int[np.ndarray, "m t"]:
    """Return for each token the number of the functional row that replaces it, or −1.

    `word_of_token` says which word of `caption.split()` a token belongs to; −1: to none, as begin and end of text.

    The published code writes at `sentence.split(" ").index(word)`, which counts neither the begin-of-text token nor
    words of several tokens: at least one column to the left of the word's own.
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
                rows[i, [token for token in own if token < len(word_of_token[i])]] = row  # of a truncated caption
    return rows


Kind = Literal["cosine", "late", "labclip", "dcsm", "dcsm-published"]
TOKENLESS = ("cosine", "labclip")
"""Kinds that read pooled vectors only: any cache will do."""
FITTED = ("labclip", "dcsm", "dcsm-published")


class ScorerParams(ParamsSection):
    """`relate.<scorer>:`, one scorer."""

    kind: Kind
    epochs: int = Field(default=6, ge=1)
    groups: int = Field(default=4, ge=1)
    """Groups of questions in a step."""
    negatives: Literal["batch", "group"] = Field(default="batch", exclude_if=lambda scope: scope == "batch")
    """Which texts of a step an image is scored against: all, or those of its own group, which are the hard ones."""
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)
    columns: int = Field(default=32, ge=2)
    """Word columns of a map; a caption of more tokens is refused."""
    functional_words: tuple[str, ...] = PUBLISHED
    functional_column: Column = "word"
    """Where a functional row goes: the word's own column, that of the published code, or nowhere."""
    shuffle_patches: bool = False
    """A control: every image's patches in an order of its own, so that a map says what is there and not where."""
