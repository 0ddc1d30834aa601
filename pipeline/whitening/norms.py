"""The two conventions for norms of embeddings and of targets: kept, or L2-normalized."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from cache.normalization import l2_normalize
from pipeline.project.errors import PipelineError

NormMode = Literal["none", "l2"]


def normalize_rows(rows: Float[np.ndarray, "n d"], norm: NormMode) -> Float[np.ndarray, "n d"]:
    """Return the rows as a new float64 array, divided by their norms when `norm` is `l2`.

    Raises:
        PipelineError: a row is zero or not finite: it would make every mean and covariance wrong.
    """
    if norm == "none":
        return rows.astype(np.float64)
    unit = l2_normalize(rows, np.float64)
    bad = np.flatnonzero(~np.isfinite(unit).all(axis=1) | ~unit.any(axis=1))
    if bad.size:
        length = np.linalg.norm(rows[bad[0]].astype(np.float64))
        raise PipelineError(
            f"row {bad[0]} of {len(rows)} has length {length}: it has no direction to normalize. "
            "Embed again, or use `pre_norm: none`."
        )
    return unit
