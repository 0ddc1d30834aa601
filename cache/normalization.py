"""L2 normalization of rows: the one place where embeddings are put on the unit sphere."""

from __future__ import annotations

from typing import Any

import numpy as np

BLOCK_ROWS = 8192
"""Rows normalized at once: in float64, 8192 × 512 are 34 MB."""


def l2_normalize(rows: np.ndarray, dtype: type[np.floating[Any]] = np.float32) -> np.ndarray:
    """Return x/‖x‖ for each row x of (n, d), computed in float64, as a new array of `dtype`.

    A row of zeros has no direction: it stays zero, and its dot product with everything is zero.
    """
    unit = np.empty(rows.shape, dtype)
    for start in range(0, len(rows), BLOCK_ROWS):
        wide = rows[start : start + BLOCK_ROWS].astype(np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        with np.errstate(invalid="ignore"):  # a row with an infinity becomes NaN
            wide *= np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths != 0)[:, None]
        unit[start : start + BLOCK_ROWS] = wide
    return unit
