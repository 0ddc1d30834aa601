"""Samples of tars as columns: the entries that objects would have been, in a tenth of the memory."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.sources.entry_table import EntryTable, EntryTableBuilder
from pipeline.data.sources.listing import Entry, FileSpan, make_key
from pipeline.data.sources.registry import parse_source
from tests.factories.tars import tar_of

NAMES = st.lists(st.text("ab./é_-9", min_size=1, max_size=6), max_size=12)


def spans(number: int) -> tuple[FileSpan, ...]:
    return tuple(FileSpan("t.tar", e, 1000 * number + i, 7 * i) for i, e in enumerate(("jpg", "txt")[: number % 2 + 1]))


def built(names: list[str]) -> tuple[EntryTable, list[str]]:
    builder = EntryTableBuilder([("t.tar", 9000)])
    for number, name in enumerate(names):
        builder.add(0, name, spans(number))
    table, duplicates = builder.build()
    return table, [entry.origin for _, entry, _ in duplicates]


@given(names=NAMES)
@settings(max_examples=200, deadline=None)
def test_the_table_holds_the_first_entry_of_each_key_in_the_order_of_keys(names: list[str]) -> None:
    expected: dict[str, Entry] = {}
    repeated = []
    for number, name in enumerate(names):
        entry = Entry(make_key(name), f"t.tar:{name}", spans(number))
        if expected.setdefault(entry.key, entry) is not entry:
            repeated.append(entry.origin)
    table, duplicates = built(names)
    assert list(table) == sorted(expected.values(), key=lambda entry: entry.key)
    assert sorted(duplicates) == sorted(repeated)
    assert [table[row] for row in range(len(table))] == list(table)
    assert list(table[1:3]) == list(table)[1:3]
    for entry in table:
        assert table.find(entry.key) == (int(entry.members[0].offset // 1000), entry)
    assert table.find("no such key") is None


def test_a_slice_that_is_sent_elsewhere_is_its_own_entries_alone() -> None:
    table, _ = built([f"{number:06d}" for number in range(5000)])
    sent = pickle.dumps(table[10:13])
    assert pickle.loads(sent) == tuple(table)[10:13]  # noqa: S301  our own bytes
    assert len(sent) < 2000


def test_the_order_of_skipped_samples_is_that_in_which_they_were_read(tmp_path: Path) -> None:
    members = {"b.jpg": b"x", "b.txt": b"x", "a.jpg": b"x", "c.txt": b"x", "d.jpg": b"x", "d.txt": b"x"}
    tar_of(tmp_path / "0.tar", members)
    tar_of(
        tmp_path / "1.tar", {"d.jpg": b"x", "d.txt": b"x", "c.jpg": b"x", "c.txt": b"x", "b.jpg": b"x", "e.txt": b""}
    )
    source = parse_source({"source": "tars", "tars": str(tmp_path)}, "index.train")
    plan = source.plan(source.listing("index.train"))
    assert [entry.origin for entry in plan.entries_by_key()] == ["0.tar:b", "1.tar:c", "0.tar:d"]
    assert [(skip.origin, skip.reason) for skip in plan.skipped] == [
        ("0.tar:a", "half a sample: no caption (.txt, .json), only image"),
        ("0.tar:c", "half a sample: no image, only txt"),
        ("1.tar:d", "duplicate key: 0.tar:d has it already"),
        ("1.tar:b", "duplicate key: 0.tar:b has it already"),
        ("1.tar:e", "half a sample: no image, only txt"),
    ]


def test_a_plan_takes_at_most_a_hundred_bytes_a_sample() -> None:
    count = 20_000
    members = (
        FileSpan("t.tar", "jpg", 512, 300),
        FileSpan("t.tar", "json", 1536, 80),
        FileSpan("t.tar", "txt", 2560, 9),
    )
    tracemalloc.start()
    try:
        builder = EntryTableBuilder([("t.tar", 9000)])
        for number in range(count):
            builder.add(0, f"{number:09d}", members)
        table, _ = builder.build()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == count
    assert held < 100 * count
    assert peak < 150 * count  # while keys are laid out
