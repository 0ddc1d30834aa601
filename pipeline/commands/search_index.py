"""An approximate index over the cached images of a split, and the recall that it costs.

Exact search compares a query with every row. An inverted file (faiss `IVF…,SQ8`) assigns each row to the nearest of
about 4 √n centroids and compares a query with the rows of a few cells only, by codes of one byte a dimension. The best
candidates are then scored from the cache in float32: scores are exact, and only the choice of rows is approximate.

How many cells are probed follows from a measurement at the time of building: the fewest (a power of two) at which
queries of the split itself find RECALL of their ten nearest rows. Captions are measured apart from images, because a
text lies far from every image and needs more cells than an image does.

Source: H. Jégou, M. Douze, C. Schmid, Product Quantization for Nearest Neighbor Search, 2011 (inverted file); faiss's
guidelines for the number of centroids and of rows that they are fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int

from cache.atomic import atomic_write
from cache.checksums import CHECKSUMS, read_checksums, write_checksums
from cache.errors import CacheError
from cache.fingerprint import fingerprint
from cache.manifest import view_name
from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from cache.rows import EmbeddingRows, Verify
from cache.work_store import WorkStore
from pipeline.evaluation.metrics.retrieval import nearest_in_blocks
from pipeline.project.layout import Layout
from pipeline.project.progress import progress

EXACT_ROWS = 500_000
"""Splits of up to so many images are searched exactly."""
RECALL, NEIGHBORS, QUERIES = 0.95, 10, 200
CANDIDATES = 8
"""Rows that are scored from the cache, for each one that is asked for."""
CELLS_PER_ROOT, ROWS_PER_CELL = 4, 40
FILE, REMEDY = "index.faiss", "Delete its folder: `search` builds it again."


@dataclass(frozen=True)
class SearchIndex:
    """An inverted file over the images of a store, and what was measured of it."""

    index: Any
    images: EmbeddingRows
    probes: int
    """Cells that are compared with a query."""
    recall: Mapping[str, float]
    """Mean share of the ten nearest rows that are found, by the kind of query: `image` (finds itself), `text`."""

    def nearest(self, query: Float[np.ndarray, " d"], k: int) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """Return cosines and row numbers of the nearest rows that are found, best first."""
        found = _nearest(self.index, self.images, l2_normalize(query[None]), k, self.probes)
        return found[0][0], found[1][0]


def open_index(store: EmbeddingStore, layout: Layout, verify: Verify = "hash") -> SearchIndex:
    """Return the index of a store's images; it is built the first time, and again after the embeddings changed.

    Raises:
        CacheError: a file of the embeddings is damaged.
        LockedError: another process is building the index.
    """
    shards = [shard.sha256 for shard in store.manifest.parts[view_name(0)].shards]
    mark = fingerprint({"shards": shards, "kind": "ivf-sq8", "recall": RECALL})
    works = WorkStore(layout.store)
    with works.lock("search", mark):
        folder = works.workspace("search", mark)
        works.pin("search", store.folder, [f"{folder.name}/"])
        if not _is_whole(folder, verify):
            _build(folder, store)
    facts = read_checksums(folder / CHECKSUMS, REMEDY).facts
    index = faiss.read_index(str(folder / FILE), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    return SearchIndex(index, store.image(), int(facts["probes"]), facts["recall"])


def _is_whole(folder: Path, verify: Verify) -> bool:
    try:
        listed = read_checksums(folder / CHECKSUMS, REMEDY)
        if verify == "hash":
            listed.verify(FILE)
    except CacheError:
        return False
    return (folder / FILE).is_file()


def _build(folder: Path, store: EmbeddingStore) -> None:
    """Write the index and, last, its hash with what was measured."""
    (folder / CHECKSUMS).unlink(missing_ok=True)
    index = fit_index(store.image())
    with atomic_write(folder / FILE) as temporary:
        faiss.write_index(index, str(temporary))
    probes, recall = choose_probes(index, store)
    write_checksums(folder / CHECKSUMS, [FILE], {"probes": probes, "recall": recall, "rows": store.rows})


def fit_index(images: EmbeddingRows, seed: int = 0) -> Any:
    """Return an inverted file over normalized rows: centroids from a random sample, codes of all."""
    count, dim = images.shape
    cells = max(1, min(round(CELLS_PER_ROOT * count**0.5), count // ROWS_PER_CELL))
    index = faiss.index_factory(dim, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(seed).choice(count, min(count, cells * ROWS_PER_CELL), replace=False)
    with progress("fit cells", len(sample), "images") as advance:
        index.train(_unit_rows(images, np.sort(sample)))
        advance(len(sample))
    with progress("index", count, "images") as advance:
        for block in images.blocks():
            index.add(np.ascontiguousarray(l2_normalize(block), np.float32))
            advance(len(block))
    return index


def choose_probes(index: Any, store: EmbeddingStore, seed: int = 0) -> tuple[int, dict[str, float]]:
    """Return the fewest cells, a power of two, at which every kind of query has the recall; and the recalls there."""
    queries, images = sample_queries(store, seed), store.image()
    blocks = map(l2_normalize, images.blocks())
    truth = nearest_in_blocks(np.concatenate(list(queries.values())), blocks, NEIGHBORS)[1]
    probes, recall = 1, measure_recall(index, images, queries, truth, 1)
    while min(recall.values()) < RECALL and probes < index.nlist:
        probes = min(2 * probes, index.nlist)
        recall = measure_recall(index, images, queries, truth, probes)
    return probes, recall


def sample_queries(store: EmbeddingStore, seed: int) -> dict[str, Float[np.ndarray, "q d"]]:
    """Return unit queries by kind: images of the split, and captions where there are any."""
    rng = np.random.default_rng(seed)
    kinds = {"image": store.image(), **({"text": store.text()} if store.has_captions else {})}
    return {
        kind: l2_normalize(rows[np.sort(rng.choice(len(rows), min(QUERIES, len(rows)), replace=False))])
        for kind, rows in kinds.items()
    }


def measure_recall(
    index: Any,
    images: EmbeddingRows,
    queries: Mapping[str, Float[np.ndarray, "q d"]],
    truth: Int[np.ndarray, "n k"],
    probes: int,
) -> dict[str, float]:
    """Return the mean share of the true nearest rows that are found; `truth` has the rows of all kinds in order."""
    found, start = {}, 0
    for kind, rows in queries.items():
        near = _nearest(index, images, rows, truth.shape[1], probes)[1]
        true = truth[start : start + len(rows)]
        found[kind] = round(float(np.mean([np.isin(a, b).mean() for a, b in zip(true, near, strict=True)])), 4)
        start += len(rows)
    return found


def _nearest(
    index: Any, images: EmbeddingRows, queries: Float[np.ndarray, "q d"], k: int, probes: int
) -> tuple[list[Float[np.ndarray, " k"]], list[Int[np.ndarray, " k"]]]:
    """Return cosines and rows for each query: candidates by codes, scores from the cache."""
    settings = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]  # built in C++
    coded = np.ascontiguousarray(queries, np.float32)
    candidates = index.search(coded, min(CANDIDATES * k, len(images)), params=settings)[1]
    scores, rows = [], []
    for query, row in zip(queries, candidates, strict=True):
        own = np.sort(row[row >= 0])  # -1: the cells had no more rows
        exact = _unit_rows(images, own) @ query
        best = np.argsort(-exact, kind="stable")[:k]
        scores.append(exact[best])
        rows.append(own[best])
    return scores, rows


def _unit_rows(images: EmbeddingRows, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    return np.ascontiguousarray(l2_normalize(images[rows]), np.float32)
