"""An index finds most of what exact search finds, says how much, and is never used for other embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.atomic import read_checksummed_json
from cache.checksums import CHECKSUMS
from cache.reader import EmbeddingStore
from pipeline.commands import search_index
from pipeline.commands.gc import gc
from pipeline.commands.search import search
from pipeline.commands.search_index import FILE, RECALL, SearchIndex, open_index, sample_queries
from pipeline.commands.verify import verify
from pipeline.project.layout import Layout
from tests.factories.embeddings import clip_like, write_split

ROWS, DIM, SPLIT = 2400, 24, "train"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Embeddings of 2,400 images in shards of 500."""
    return embedded(Layout(tmp_path))


def embedded(layout: Layout, seed: int = 0) -> Layout:
    image, text = clip_like(ROWS, DIM, seed=seed)
    write_split(layout.embeddings(SPLIT), [image], text, shard_rows=500)
    return layout


def index_of(layout: Layout) -> SearchIndex:
    return open_index(EmbeddingStore.open(layout.embeddings(SPLIT)), layout)


def cosines(layout: Layout, queries: np.ndarray) -> np.ndarray:
    """Return the cosine of each query with every image, in float64."""
    rows = EmbeddingStore.open(layout.embeddings(SPLIT)).image().load().astype(np.float64)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    found: np.ndarray = queries.astype(np.float64) @ rows.T / lengths
    return found


def workspaces(layout: Layout) -> list[Path]:
    return sorted(layout.store.glob("search-*/"))


def test_the_recall_that_is_said_is_the_one_that_a_scan_of_everything_finds(layout: Layout) -> None:
    index, store = index_of(layout), EmbeddingStore.open(layout.embeddings(SPLIT))
    for kind, queries in sample_queries(store, 0).items():
        shares = []
        for query, expected in zip(queries, cosines(layout, queries), strict=True):
            scores, rows = index.nearest(query, 10)
            shares.append(np.isin(np.argsort(-expected, kind="stable")[:10], rows).mean())
            np.testing.assert_allclose(scores, expected[rows], atol=1e-6)
            assert np.all(np.diff(scores) <= 0)
        assert index.recall[kind] == pytest.approx(np.mean(shares), abs=2e-3)
        assert index.recall[kind] >= RECALL


def test_fewer_cells_find_less(layout: Layout) -> None:
    """Negative control: the measurement can fail, and the number of probes follows from it."""
    index = index_of(layout)
    queries = sample_queries(EmbeddingStore.open(layout.embeddings(SPLIT)), 0)
    truth = np.argsort(-cosines(layout, np.vstack([*queries.values()])), axis=1, kind="stable")[:, :10]
    few = search_index.measure_recall(index.index, index.images, queries, truth, 1)
    assert index.probes > 1
    assert min(few.values()) < RECALL


def test_small_splits_are_searched_exactly_and_leave_no_index(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    query = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    best = search(query, SPLIT, layout, top=5)
    assert best.recall is None
    assert workspaces(layout) == []
    monkeypatch.setattr("pipeline.commands.search.EXACT_ROWS", ROWS - 1)
    found = search(query, SPLIT, layout, top=5)
    assert found.recall is not None
    assert len(workspaces(layout)) == 1
    assert found.hits[0].key == best.hits[0].key
    assert found.hits[0].score == pytest.approx(best.hits[0].score, abs=1e-6)
    assert search(query, SPLIT, layout, top=5, exact=True) == best


def test_an_index_is_built_once_and_anew_where_it_is_damaged_or_of_other_embeddings(layout: Layout) -> None:
    index_of(layout)
    folder = workspaces(layout)[0]
    facts, made = read_checksummed_json(folder / CHECKSUMS)["facts"], (folder / FILE).stat().st_mtime_ns
    assert facts["rows"] == ROWS
    index_of(layout)
    assert (folder / FILE).stat().st_mtime_ns == made
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert any(FILE in fault for fault in verify(layout).faults)
    index_of(layout)
    assert (folder / FILE).read_bytes() == whole
    assert verify(layout).faults == []
    embedded(layout, seed=1)
    index_of(layout)
    assert len(workspaces(layout)) == 2
    gc(layout, [SPLIT], [])
    assert [path for path in workspaces(layout) if path == folder] == []
    assert len(workspaces(layout)) == 1


def test_a_build_that_was_stopped_is_built_again(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search_index, "choose_probes", stop)
        with pytest.raises(KeyboardInterrupt):
            index_of(layout)
    assert min(index_of(layout).recall.values()) >= RECALL
