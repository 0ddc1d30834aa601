"""Columns of text are the strings they hold, without holding strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.strings import ChainedStrings, StringColumn

TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), max_size=8)


def column(texts: list[str]) -> StringColumn:
    return StringColumn(np.array([text.encode() for text in texts], "S" if texts else "S1"))


@given(texts=TEXTS)
def test_a_column_is_the_sequence_of_its_strings(texts: list[str]) -> None:
    found = column(texts)
    assert list(found) == texts
    assert found == texts
    assert found == tuple(texts)
    assert found == column(texts)
    assert found[1:3] == tuple(texts[1:3])
    assert [found[row] for row in range(len(found))] == texts
    assert found != [*texts, "x"]


@given(parts=st.lists(TEXTS, max_size=4))
def test_a_chain_is_its_parts_one_after_the_other(parts: list[list[str]]) -> None:
    found, texts = ChainedStrings([column(part) for part in parts]), [text for part in parts for text in part]
    assert list(found) == texts
    assert found == texts
    assert [found[row] for row in range(len(found))] == texts
    assert found[-2:] == texts[-2:]
    with pytest.raises(IndexError):
        found[len(texts)]


def test_what_is_no_utf8_is_refused_when_it_is_opened() -> None:
    with pytest.raises(UnicodeDecodeError):
        StringColumn(np.array([b"ok", b"\xff\xfe"]))


def test_equal_lengths_with_other_strings_are_not_equal() -> None:
    assert column(["a", "b"]) != column(["a", "c"])
    assert column(["a", "b"]) != ["a", "c"]
    assert column(["a"]) != [1]
