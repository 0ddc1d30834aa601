"""Read a few samples of a packed split by key, from as few shards as possible."""

from __future__ import annotations

import json
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from cache.errors import DamagedError
from pipeline.data.packing.packed import PackedSplit, Sample, check_shard, referenced_sample
from pipeline.data.packing.references import ReferenceShard, open_references


def read_samples(packed: PackedSplit, keys: Iterable[str], order: Sequence[str] | None = None) -> dict[str, Sample]:
    """Return the samples of some keys; unknown keys are ignored.

    Every shard that is read is hashed first.

    Args:
        packed: The split.
        keys: The samples to return.
        order: The keys of all samples in packed order, if known: then only the shards with the requested samples are
        read; otherwise shards are read in order until all samples are found.

    Raises:
        MissingError: a shard does not exist.
        DamagedError: a shard changed, or lacks a sample that it should have.
        StaleError: an image that a shard refers to changed since it was packed.
    """
    left: set[str] = set(keys)
    samples: dict[str, Sample] = {}
    if order is not None:
        left.intersection_update(order)
    for number in range(len(packed.shards)) if order is None else _holding(packed, left, order):
        if not left:
            break
        here = _read_shard(packed, number, left)
        samples |= here
        left -= here.keys()
    if left and order is not None:
        raise DamagedError(f"{packed.folder}: no sample '{min(left)}' where it was embedded from. Run `pack` again.")
    return samples


def _holding(packed: PackedSplit, keys: set[str], order: Sequence[str]) -> list[int]:
    """Return the numbers of the shards that contain some keys."""
    ends = list(accumulate(shard.rows for shard in packed.shards))
    shards = {bisect_right(ends, row) for row, key in enumerate(order) if key in keys}
    return sorted(number for number in shards if number < len(ends))


def _read_shard(packed: PackedSplit, number: int, keys: set[str]) -> dict[str, Sample]:
    shard = packed.shards[number]
    path = packed.folder / shard.name
    check_shard(path, shard, "hash")
    if shard.by_reference:
        return _read_references(open_references(path, packed.base), keys)
    try:
        with tarfile.open(path, "r:") as tar:
            members = {member.name: member for member in tar if member.name.rpartition(".")[0] in keys}
            data = {name: _read(tar, member) for name, member in members.items()}
            samples = [_read_sample(name, image, data) for name, image in data.items() if not name.endswith(".json")]
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise DamagedError(f"{path}: not a packed shard ({error}). Run `pack` again.") from None
    return {sample.key: sample for sample in samples}


def _read_references(shard: ReferenceShard, keys: set[str]) -> dict[str, Sample]:
    rows = [row for row in range(len(shard)) if shard.key(row) in keys]
    return {
        shard.key(row): referenced_sample(shard, row, image)
        for row, image in zip(rows, shard.images(rows), strict=True)
    }


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()


def _read_sample(name: str, image: bytes, data: dict[str, bytes]) -> Sample:
    key, _, extension = name.rpartition(".")
    about = json.loads(data[f"{key}.json"])
    return Sample(key, image, extension, tuple(about["captions"] or ()), about.get("label"), about["source"])
