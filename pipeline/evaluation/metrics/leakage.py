"""Images of an evaluation split that training has seen: by name, and by looking like one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cache.checksummed_json import read_checksummed_json
from pipeline.evaluation.metrics.retrieval import nearest_neighbours
from pipeline.evaluation.scoring_rules import l2_normalize


@dataclass(frozen=True)
class NearDuplicates:
    """The nearest training image of each image, by the teacher."""

    row: Int[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]

    def count_above(self, threshold: float) -> int:
        """Count images whose nearest training image is at least so similar."""
        return int(np.sum(self.cosine >= threshold))

    def closest(self, count: int) -> Int[np.ndarray, " k"]:
        """Return the rows with the most similar training images, most similar first."""
        first: Int[np.ndarray, " k"] = np.argsort(-self.cosine, kind="stable")[:count]
        return first


def find_near_duplicates(rows: Float[np.ndarray, "n d"], train: Float[np.ndarray, "m d"]) -> NearDuplicates:
    """Search the training split for the nearest image of each row."""
    scores, found = nearest_neighbours(l2_normalize(rows), l2_normalize(train), 1)
    return NearDuplicates(found[:, 0], scores[:, 0])


def shared_files(first: Path, second: Path) -> int | None:
    """Count files of the same name and size in two index files; nothing where a split was indexed from no files.

    Raises:
        DamagedError: an index file was changed after it was written.
    """
    listed = [read_checksummed_json(path).get("files", {}) if path.is_file() else {} for path in (first, second)]
    return len(listed[0].items() & listed[1].items()) if all(listed) else None
