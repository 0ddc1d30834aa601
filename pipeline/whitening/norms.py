"""The two conventions for lengths: keep them, or put every row on the unit sphere."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from pipeline.project.errors import PipelineError

NormMode = Literal["none", "l2"]


def normalize_rows(rows: Float[np.ndarray, "n d"], norm: NormMode) -> Float[np.ndarray, "n d"]:
    """Return the rows as a new float64 array, divided by their lengths when `norm` is `l2`.

    Raises:
        PipelineError: a row of length zero, or not finite, has no direction.
    """
    wide = rows.astype(np.float64)
    if norm == "none":
        return wide
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    bad = np.flatnonzero(~(lengths > 0) | ~np.isfinite(lengths))
    if bad.size:
        raise PipelineError(
            f"row {bad[0]} of {len(rows)} has length {lengths[bad[0]]}: it has no direction to normalise. "
            "Embed again, or use `pre_norm: none`."
        )
    wide *= (1 / lengths)[:, None]
    return wide
