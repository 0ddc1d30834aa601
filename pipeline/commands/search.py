"""Search a split by text or by image over the cached embeddings: exactly, or in large splits by an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from cache.rows import Verify
from pipeline.commands.search_index import EXACT_ROWS, open_index
from pipeline.data.packing.packed import open_packed
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.data.user_images import load_center_view
from pipeline.deployment.predictor import Predictor, open_chosen
from pipeline.evaluation.metrics.retrieval import nearest_in_blocks
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from pipeline.reporting.inputs import Album
from pipeline.reporting.page import ImageBlock, ReportSection, render
from pipeline.reporting.page_files import save_page
from pipeline.teacher.params import TeacherParams, first_teacher

SIDE = 160


@dataclass(frozen=True)
class Hit:
    """A result and its score."""

    key: str
    score: float


@dataclass(frozen=True)
class SearchResult:
    """Results, best first, and how they were found."""

    hits: tuple[Hit, ...]
    recall: Mapping[str, float] | None = None
    """Of the index, by the kind of query; None if every image was compared."""


def search(
    query: Float[np.ndarray, " d"],
    split: str,
    layout: Layout,
    top: int = 12,
    *,
    exact: bool | None = None,
    verify: Verify = "hash",
) -> SearchResult:
    """Return the images of a split nearest to a query in CLIP space.

    `exact` compares the query with every image; by default this is done up to EXACT_ROWS images, and an index searches
    larger splits. The index is built by the first such search.

    Raises:
        UsageError: the query has another dimension than the split's embeddings.
        CacheError: the split was never embedded, or is damaged.
    """
    store = EmbeddingStore.open(layout.embeddings(split), verify)
    if len(query) != store.dim:
        raise UsageError(f"the query has {len(query)} dimensions, '{split}' has {store.dim}: made by two teachers?")
    count, recall = min(top, store.rows), None
    if store.rows <= EXACT_ROWS if exact is None else exact:
        blocks = map(l2_normalize, store.image().blocks())
        scores, rows = (each[0] for each in nearest_in_blocks(l2_normalize(query[None]), blocks, count))
    else:
        index = open_index(store, layout, verify)
        (scores, rows), recall = index.nearest(query, count), index.recall
    hits = (Hit(store.keys[row], float(score)) for row, score in zip(rows, scores, strict=True))
    return SearchResult(tuple(hits), recall)


def describe_recall(recall: Mapping[str, float]) -> str:
    """Return a line about the recall of an index."""
    found = ", ".join(f"{100 * share:.1f} % for {kind} queries" for kind, share in recall.items())
    return f"approximate: of the 10 nearest images the index finds {found}; --exact compares every image"


def embed_query(
    project: Project,
    text: str | None,
    image: Path | None,
    *,
    model: Path | None,
    student: str | None,
    target: str | None,
) -> Float[np.ndarray, " d"]:
    """Return the teacher's embedding of a text, or a student's embedding of an image.

    Raises:
        UsageError: neither text nor image, or both.
    """
    if (text is None) == (image is None):
        raise UsageError("search: give either words or --image FILE")
    if image:
        return image_query(image, open_chosen(project, model, student, target))
    return text_query(text or "", first_teacher(project))


def image_query(path: Path, model: Predictor) -> Float[np.ndarray, " d"]:
    """Return a student's embedding of an image; the teacher is not needed."""
    return np.asarray(model.embed(load_center_view(path, model.size)[None])[0])


def text_query(text: str, teacher: TeacherParams) -> Float[np.ndarray, " d"]:
    """Return the teacher's embedding of a text; raises UsageError if the teacher cannot be loaded."""
    from pipeline.teacher.model import (
        load_teacher,
    )  # imported only for text queries, which need the teacher's text tower

    text = text.encode("utf-8", "replace").decode()
    loaded = load_teacher(teacher, "cpu")
    return np.asarray(loaded.embed_tokens(loaded.tokenize([text]))[0])


def write_contact_sheet(path: Path, query: str, hits: Sequence[Hit], split: str, layout: Layout) -> None:
    """Write the results as one self-contained HTML page."""
    keys = [hit.key for hit in hits]
    album = Album(read_samples(open_packed(layout.packed(split)), keys), SIDE)
    tiles = tuple(tile for hit in hits if (tile := album.tile(hit.key, note=f"{hit.score:.2f}")))
    more = f"{len(hits)} nearest of '{split}', cosine {hits[0].score:.3f} to {hits[-1].score:.3f}"
    save_page(path, render(query, more, [], [ReportSection("Found", [ImageBlock(tiles, wrap=True)])]))
