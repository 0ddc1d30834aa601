"""Assign imported embeddings to shards: aligned with packed images, or in their own order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float, Int64

from pipeline.data.errors import bad_image_as_failure
from pipeline.data.images import oriented_size
from pipeline.data.interchange.external import ExternalEmbeddings
from pipeline.data.packing.packed import PackedSplit, Sample
from pipeline.data.views import FULL_BOX, Box, center_view
from pipeline.project.errors import UsageError

SHARD_ROWS = 5000
"""Images per shard if the split is not packed: 10 MB at 512 dimensions."""


@dataclass(frozen=True)
class ShardAlignment:
    """One shard: its imported images, their keys and their boxes."""

    keys: tuple[str, ...]
    images: Int64[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"] | None


def shard_in_order(foreign: ExternalEmbeddings) -> list[ShardAlignment]:
    """Split images into shards in the order of their names; their boxes are unknown."""
    count = len(foreign.image_names)
    cuts = [np.arange(start, min(start + SHARD_ROWS, count)) for start in range(0, count, SHARD_ROWS)]
    return [
        ShardAlignment(
            tuple(foreign.image_names[row] for row in rows),
            rows,
            np.tile(np.array(FULL_BOX, np.float32), (len(rows), 1)),
            None if foreign.labels is None else foreign.labels[rows],
        )
        for rows in cuts
    ]


def align_to_packed(foreign: ExternalEmbeddings, packed: PackedSplit) -> list[ShardAlignment]:
    """Align embeddings with packed images; the box is assumed to be CLIP's center view.

    An image is matched by its key or source name: in full, then by file name, then without the extension.

    Raises:
        UsageError: a packed image has no embedding, or two have the same.
    """
    find = _NameIndex(foreign.image_names)
    places, missing = [], []
    for number in range(len(packed.shards)):
        samples = [_SampleInfo.of(sample) for sample in packed.read(number)]
        rows = [find.row(sample.names) for sample in samples]
        missing += [sample.names[0] for sample, row in zip(samples, rows, strict=True) if row is None]
        if not missing:
            places.append(_place(samples, [row for row in rows if row is not None]))
    _refuse(foreign, packed, places, missing)
    return places


@dataclass(frozen=True)
class _SampleInfo:
    """The required fields of a packed sample, without its image."""

    names: tuple[str, str]
    box: Box
    label: int | None

    @classmethod
    def of(cls, sample: Sample) -> _SampleInfo:
        with bad_image_as_failure(sample.key, sample.source):
            box = center_view(*oriented_size(sample.image)).box
        return cls((sample.key, sample.source), box, sample.label)


class _NameIndex:
    """Imported images by name, and, if unique, by file name and by file name without extension."""

    def __init__(self, names: Sequence[str]) -> None:
        paths = [PurePosixPath(name) for name in names]
        self._exact = {name: row for row, name in enumerate(names)}
        self._by_file = _unique(path.name for path in paths)
        self._by_stem = _unique(path.stem for path in paths)

    def row(self, names: Iterable[str]) -> int | None:
        return next(self._rows([name for name in names if name]), None)

    def _rows(self, names: Sequence[str]) -> Iterator[int]:
        paths = [PurePosixPath(name) for name in names]
        for ours, theirs in (
            (self._exact, names),
            (self._by_file, [path.name for path in paths]),
            (self._by_stem, [path.stem for path in paths]),
        ):
            yield from (ours[name] for name in theirs if name in ours)


def _unique(names: Iterable[str]) -> dict[str, int]:
    listed = list(names)
    counts = Counter(listed)
    return {name: row for row, name in enumerate(listed) if counts[name] == 1}


def _place(samples: Sequence[_SampleInfo], rows: Sequence[int]) -> ShardAlignment:
    labels = [sample.label for sample in samples]
    return ShardAlignment(
        tuple(sample.names[0] for sample in samples),
        np.array(rows, np.int64),
        np.array([sample.box for sample in samples], np.float32).reshape(-1, 4),
        None if None in labels else np.array(labels, np.int64),
    )


def _refuse(
    foreign: ExternalEmbeddings, packed: PackedSplit, places: Sequence[ShardAlignment], missing: Sequence[str]
) -> None:
    if missing:
        raise UsageError(
            f"{packed.folder}: {len(missing)} of {packed.rows} packed images have no embedding in {foreign.files[0]}, "
            f"first '{missing[0]}'; names there begin with '{foreign.image_names[0]}'. Pack what was embedded, "
            "or import under another --root."
        )
    rows = np.concatenate([place.images for place in places])
    if len(np.unique(rows)) < len(rows):
        twice = np.flatnonzero(np.bincount(rows) > 1)[0]
        raise UsageError(f"{packed.folder}: two packed images are called like '{foreign.image_names[twice]}'")
