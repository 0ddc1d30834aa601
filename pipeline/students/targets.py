"""What a student learns from: the cached embeddings as a target space sees them, whitened once, resident."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from cache.reader import EmbeddingStore
from pipeline.whitening.spaces import TargetSpace


@dataclass(frozen=True)
class Targets:
    """Every image and view, and every caption, in one target space."""

    image: Float[np.ndarray, "v n k"]
    boxes: Float[np.ndarray, "v n 4"]
    flips: Bool[np.ndarray, "v n"]
    text: Float[np.ndarray, "m k"] | None
    offsets: Int64[np.ndarray, " n+1"] | None
    """Captions of image i are rows offsets[i] … offsets[i+1] of `text`."""

    @property
    def mean(self) -> Float[np.ndarray, " k"]:
        """Mean over images and views."""
        mean: Float[np.ndarray, " k"] = self.image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        return mean

    @property
    def variance(self) -> float:
        """Return E‖y − ȳ‖²/k, the unit in which losses are counted."""
        return float(self.image.var(axis=(0, 1), dtype=np.float64).mean())

    @property
    def radius(self) -> float:
        """Root mean square of ‖y‖."""
        return float(np.sqrt(np.square(self.image, dtype=np.float64).sum(axis=-1).mean()))

    def captions_of(self, rows: Int64[np.ndarray, " b"]) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """Return the first caption of each image, and the one after its last."""
        if self.offsets is None:
            raise ValueError("these targets were loaded without captions")
        return self.offsets[rows], self.offsets[rows + 1]


def load_targets(store: EmbeddingStore, space: TargetSpace, views: int | None = None, texts: bool = False) -> Targets:
    """Whiten a split's rows once, all views or the first few, captions only where a loss wants them."""
    count = store.views if views is None else min(views, store.views)
    return Targets(
        image=np.stack([space.to_target(store.image(view).load(), "image") for view in range(count)]),
        boxes=np.stack([store.boxes(view) for view in range(count)]),
        flips=np.stack([store.flips(view) for view in range(count)]),
        text=space.to_target(store.text().load(), "text") if texts else None,
        offsets=np.asarray(store.offsets) if texts else None,
    )
