"""A large file is checked block by block, each once, before its first byte is used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import blocks
from cache.blocks import BlockHasher, BlockVerifier
from cache.errors import DamagedError

SIZE = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", SIZE)


def hashed(pieces: list[bytes]) -> np.ndarray:
    hasher = BlockHasher()
    for piece in pieces:
        hasher.update(memoryview(piece))
    return hasher.digests()


def verifier(path: Path, data: bytes) -> BlockVerifier:
    path.write_bytes(data)
    return BlockVerifier(path, np.memmap(path, np.uint8, "r+"), hashed([data]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=150), max_size=8))
def test_digests_are_those_of_the_blocks_however_the_bytes_come(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = [hashlib.sha256(whole[at : at + 64]).digest() for at in range(0, len(whole), 64)]
    assert [row.tobytes() for row in hashed(pieces)] == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1000), st.data())
def test_a_flipped_bit_is_found_by_the_ranges_that_touch_its_block_and_by_no_others(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    at, start = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    found = verifier(tmp_path_factory.mktemp("blocks") / "file", np.random.default_rng(size).bytes(size))
    found.data[at] ^= 1
    ranges = np.array([start, start]), np.array([stop, start + 1])
    if start // SIZE <= at // SIZE <= (stop - 1) // SIZE:
        with pytest.raises(DamagedError, match=r"damaged: bytes \d+ to \d+ hash to .*, expected .* Delete"):
            found.verify(*ranges)
    else:
        found.verify(*ranges)
    assert len(list(found.faults())) == 1


def test_a_block_is_hashed_once(tmp_path: Path) -> None:
    found = verifier(tmp_path / "file", bytes(range(200)))
    found.verify(np.array([0, 130]), np.array([10, 131]))
    found.data[[3, 140]] ^= 1
    found.verify(np.array([0, 130]), np.array([10, 131]))  # both blocks were seen whole before
    found.data[70] ^= 1
    with pytest.raises(DamagedError, match="bytes 64 to 127"):
        found.verify_all()
    found.data[70] ^= 1
    found.verify_all()
    found.verify_all()
    assert len(list(found.faults())) == 2  # Negative control: the two that changed since.
