from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.reader import EmbeddingStore
from pipeline.whitening.estimate import estimate_comoments, split_half_moments
from tests.factories.embeddings import clip_like, write_split

COUNTS = np.tile([3, 0, 1, 2, 5], 17)


def test_halves_are_alternate_images_with_their_captions_and_merge_to_the_whole(tmp_path: Path) -> None:
    views = [clip_like(len(COUNTS), seed=v)[0] for v in range(2)]
    text = clip_like(int(COUNTS.sum()), seed=9)[1]
    write_split(tmp_path / "train", views, text, COUNTS, shard_rows=20)  # an even number of rows a shard
    first, second = split_half_moments(EmbeddingStore.open(tmp_path / "train"), "l2")
    whole = estimate_comoments("l2", views, text, np.concatenate([[0], np.cumsum(COUNTS)]))
    merged = first.merge(second)
    for found, expected in ((merged.image, whole.image), (merged.text, whole.text)):
        assert found is not None
        assert expected is not None
        assert found.count == expected.count
        np.testing.assert_allclose(found.scatter, expected.scatter, atol=1e-12)
    assert merged.cross is not None
    assert whole.cross is not None
    np.testing.assert_allclose(merged.cross.scatter, whole.cross.scatter, atol=1e-12)

    even = np.repeat(np.arange(len(COUNTS)) % 2 == 0, COUNTS)
    assert first.text is not None
    assert first.text.count == even.sum()
    unit = text[even] / np.linalg.norm(text[even].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(first.text.mean, unit.mean(axis=0), atol=1e-12)


def test_halves_of_images_alone(tmp_path: Path) -> None:
    write_split(tmp_path / "train", [clip_like(40)[0]])
    first, second = split_half_moments(EmbeddingStore.open(tmp_path / "train"), "none")
    assert (first.image.count, second.image.count, first.text) == (20, 20, None)
