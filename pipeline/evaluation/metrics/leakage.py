"""Evaluation images that are also in train: as the same file, or as a near-duplicate by the teacher's cosine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from cache.atomic import read_checksummed_json
from cache.ensemble import open_store
from cache.manifest import CAPTIONS, TEXT
from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.metrics.retrieval import nearest_in_blocks

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables

LISTED = 12
"""Number of images with the most similar training images that the report lists."""


@dataclass(frozen=True)
class NearDuplicates:
    """The nearest training image of each image, by the teacher's cosine."""

    row: Int[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]

    def count_above(self, threshold: float) -> int:
        """Count images whose nearest training image reaches this cosine."""
        return int(np.sum(self.cosine >= threshold))

    def closest(self, count: int) -> Int[np.ndarray, " k"]:
        """Return the rows with the most similar training images, most similar first."""
        first: Int[np.ndarray, " k"] = np.argsort(-self.cosine, kind="stable")[:count]
        return first


def find_near_duplicates(rows: Float[np.ndarray, "n d"], train: Iterable[Float[np.ndarray, "m d"]]) -> NearDuplicates:
    """Search the training split, given in blocks, for the nearest image of each row."""
    scores, neighbors = nearest_in_blocks(l2_normalize(rows), map(l2_normalize, train), 1)
    return NearDuplicates(neighbors[:, 0], scores[:, 0])


def shared_files(first: Path, second: Path) -> int | None:
    """Count files of the same name and size in two index files; None if a split was indexed without files.

    Raises:
        DamagedError: an index file was changed after it was written.
    """
    listed = [read_checksummed_json(path).get("files", {}) if path.is_file() else {} for path in (first, second)]
    return len(listed[0].items() & listed[1].items()) if all(listed) else None


def same_captions(val: EmbeddingStore, train: EmbeddingStore) -> dict[str, Any]:
    """Count captions of a split that also occur word for word in train: in its own and in each additional file."""
    hashes = val.caption_hashes()

    def shared(part: str) -> int:
        return int(np.isin(hashes, train.caption_hashes(part)).sum())

    files = {name: shared(f"{CAPTIONS}{name}") for name in train.manifest.caption_files}
    return {"n": len(hashes), "own": shared(TEXT), "files": files}


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Count images of each split that are in train: as the same file, or as a near-duplicate.

    If train has additional captions, also count captions of val among them.
    """
    layout, params = inputs.layout, inputs.params
    train = open_store(layout.embeddings("train"), inputs.val.store.manifest.teacher, "size")
    metrics: dict[str, dict[str, Any]] = {}
    tables = {}
    for split in (inputs.val, *inputs.labeled):
        duplicates = find_near_duplicates(split.teacher, train.image(0).blocks())
        metrics[split.name] = {
            "n": len(duplicates.row),
            "near_duplicates": duplicates.count_above(params.near_duplicate_cosine),
            "cosine": params.near_duplicate_cosine,
            "same_files": shared_files(layout.index(split.name), layout.index("train")),
        }
        rows = [
            (split.store.keys[i], train.keys[duplicates.row[i]], float(duplicates.cosine[i]))
            for i in duplicates.closest(LISTED)
        ]
        tables[f"{split.name}-twins"] = CsvTable(("key", "train", "cosine"), rows)
    if train.manifest.caption_files and inputs.val.store.has_captions:
        metrics[inputs.val.name]["same_captions"] = same_captions(inputs.val.store, train)
    return metrics, tables
