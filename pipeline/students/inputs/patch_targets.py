"""The teacher's patch tokens as training targets, read from the cache per batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from pipeline.project.errors import UsageError
from pipeline.students.losses.rowwise import DenseLoss, token_variance
from pipeline.whitening.spaces import TargetSpace

VARIANCE_IMAGES = 256
"""Number of evenly spaced images whose token variance is the unit of the loss."""


class PatchTokenRows(Protocol):
    """Patch tokens by image (cache/token_rows.py)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return (b, p, d) tokens of some images."""


@dataclass(frozen=True)
class PatchTargets:
    """Unit-length patch tokens, and the transform of a student's outputs to their space. Nothing is held in memory."""

    rows: PatchTokenRows
    side: int
    """Side of the token grid."""
    space: TargetSpace
    undefined: bool
    """Whether the losses, or the space, leave the norm of an output undefined."""

    def batch(
        self, rows: Int64[np.ndarray, " b"], mirrored: Bool[np.ndarray, " b"], side: int
    ) -> Float[np.ndarray, "b p d"]:
        """Return the tokens of some images at the positions that a grid of `side` shares with theirs.

        Of a grid s times as fine, every s-th position is taken instead of the mean of s × s: a convolutional tower that
        is dilated for that grid has the same outputs there as without dilation.
        """
        tokens = self.rows[rows]
        step = self.side // side
        grid = tokens.reshape(len(rows), self.side, self.side, -1)
        grid[mirrored] = grid[mirrored, :, ::-1]
        return np.ascontiguousarray(grid[:, ::step, ::step].reshape(len(rows), side * side, -1), np.float32)

    def check_side(self, side: int, student: str) -> None:
        """Refuse a student's grid that shares no positions with the teacher's.

        Raises:
            UsageError: names both grids.
        """
        if self.side % side:
            raise UsageError(
                f"distill.{student}.grid: {side} places a side, and the teacher's tokens have {self.side}: expected a "
                "divisor of that. Set it, or embed.tokens.grid"
            )

    def loss(self) -> DenseLoss:
        """Return the loss with the variance of these tokens as its unit."""
        way = self.space.transform("image")
        rows = np.unique(np.linspace(0, len(self.rows) - 1, VARIANCE_IMAGES).astype(np.int64))
        tokens = self.rows[rows]
        return DenseLoss(
            torch.from_numpy(way.backward),
            torch.from_numpy(way.mean),
            way.rms_norm if self.undefined else None,
            token_variance(torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]))),
        )
