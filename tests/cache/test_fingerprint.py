"""Inputs and bytes have names that change with them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import MissingError
from cache.fingerprint import fingerprint, sha256, sha256_bytes

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.text(max_size=3), leaves, max_size=3)


def test_a_fingerprint_is_the_one_it_was_when_the_first_store_was_written() -> None:
    # Known once and for all: a change here would disown every existing store.
    assert (
        fingerprint({"teacher": "ViT-B-16", "views": 2})
        == hashlib.sha256(b'{"teacher":"ViT-B-16","views":2}').hexdigest()[:12]
        == "30b1c3fa4ea5"
    )


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_the_order_of_facts_does_not_matter(facts: dict[str, Any]) -> None:
    assert fingerprint(dict(reversed(facts.items()))) == fingerprint(facts)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4), st.text(max_size=3), values)
def test_one_more_or_other_fact_is_another_fingerprint(facts: dict[str, Any], key: str, value: object) -> None:
    changed = {**facts, key: value}
    # Python takes 1 for True; JSON, and so a fingerprint, does not.
    if changed != facts:
        assert fingerprint(changed) != fingerprint(facts)


def test_not_a_number_is_no_fact() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"scale": float("nan")})


def test_a_file_and_its_bytes_have_the_same_hash(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "file") == sha256_bytes(b"abc" * 100_000)
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4


def test_hashing_a_file_that_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere"):
        sha256(tmp_path / "nowhere")
