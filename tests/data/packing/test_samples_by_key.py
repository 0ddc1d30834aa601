"""A few samples out of a packed split, the same as reading all of it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import DamagedError, MissingError
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime


@pytest.fixture
def packed(tmp_path: Path) -> PackedSplit:
    layout = Layout(tmp_path)
    source = parse_source({"source": "sample", "part": "val", "images": 12}, "index.val")
    index("val", source, layout)
    pack("val", source, PackParams(shard_rows=5), layout, Runtime(workers=0))
    return open_packed(layout.packed("val"))


def test_chosen_samples_are_those_that_reading_everything_gives(packed: PackedSplit) -> None:
    every = {sample.key: sample for i in range(len(packed.shards)) for sample in packed.read(i)}
    keys = sorted(every)
    chosen = read_samples(packed, [keys[1], keys[-1], "no such key"])
    assert chosen == {key: every[key] for key in (keys[1], keys[-1])}


def test_a_missing_and_a_broken_shard_are_named(packed: PackedSplit) -> None:
    shard = packed.folder / packed.shards[0].name
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DamagedError, match=r"shard-00000.tar: 1000 bytes, but its manifest says"):
        read_samples(packed, ["x"])
    shard.unlink()
    with pytest.raises(MissingError, match=r"shard-00000.tar: no such shard"):
        read_samples(packed, ["x"])
