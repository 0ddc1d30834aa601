"""Leakage: images that training has seen are found by file and by looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.atomic import write_checksummed_json
from cache.fingerprint import sha256_bytes
from cache.reader import EmbeddingStore
from pipeline.evaluation.metrics.leakage import find_near_duplicates, same_captions, shared_files
from tests.factories.project import project


def test_a_planted_copy_is_found_and_a_stranger_is_not() -> None:
    rng = np.random.default_rng(0)
    train, rows = rng.normal(size=(200, 32)), rng.normal(size=(30, 32))
    rows[7] = 3 * train[150] + 0.02 * rng.normal(size=32)
    found = find_near_duplicates(rows, np.split(train, [70, 71, 190]))
    assert found.count_above(0.98) == 1
    assert (found.closest(1)[0], found.row[7]) == (7, 150)
    brute = rows @ train.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(train, axis=1))
    assert np.array_equal(found.row, brute.argmax(axis=1))
    np.testing.assert_allclose(found.cosine, brute.max(axis=1), atol=1e-5)


def index_file(folder: Path, name: str, files: dict[str, int]) -> Path:
    path = folder / f"{name}.json"
    write_checksummed_json(path, {"files": files})
    return path


def test_files_of_the_same_name_and_size_are_counted(tmp_path: Path) -> None:
    first = index_file(tmp_path, "val", {"a.jpg": 10, "b.jpg": 20, "c.jpg": 30})
    second = index_file(tmp_path, "train", {"b.jpg": 20, "c.jpg": 31, "d.jpg": 10})
    assert shared_files(first, second) == 1


def test_captions_of_val_that_train_has_word_for_word_are_counted(tmp_path: Path) -> None:
    layout = project(tmp_path, students=(), targets=(), further=True)
    val, train = (EmbeddingStore.open(layout.embeddings(split)) for split in ("val", "train"))
    hashes = val.caption_hashes()
    own = set(train.caption_hashes().tolist())
    assert same_captions(val, train) == {
        "n": len(hashes),
        "own": sum(mark in own for mark in hashes.tolist()),
        "files": {"seen": 0},
    }
    # Train's own captions are all its own, and none of them says what the file does.
    assert same_captions(train, train)["own"] == len(train.caption_hashes())
    further = train.caption_hashes("captions/seen")
    assert further[1].decode() == sha256_bytes(b"once more 0")


def test_drawn_splits_have_no_files_to_compare(tmp_path: Path) -> None:
    assert shared_files(index_file(tmp_path, "val", {}), index_file(tmp_path, "train", {"a": 1})) is None
    assert shared_files(tmp_path / "none.json", tmp_path / "none.json") is None
