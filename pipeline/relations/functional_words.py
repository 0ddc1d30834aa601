"""Functional words: which column of a map belongs to `left`, `not` or `above`.

A text tower that never read `left` has no token for it worth comparing with patches, so DCSM replaces the column of
such a word by a fixed random row: a mark that the network can learn to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

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
