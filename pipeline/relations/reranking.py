"""Re-ranking of retrieval: a scorer of tokens sorts the first results of CLIP's cosine again."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cache.manifest import PATCHES, WORDS
from cache.normalization import l2_normalize
from pipeline.data.packing.packed import open_packed
from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables
from pipeline.evaluation.metrics.retrieval import (
    DIRECTIONS,
    ground_truth_pairs,
    nearest_neighbors,
)
from pipeline.relations.cached_tokens import CachedTokens, CaptionList, StudentTokens
from pipeline.relations.choice_metrics import OpenedScorer, StudentScorers
from pipeline.relations.fitting import score_pairs
from pipeline.relations.params import TOKENLESS

RANKS = (1, 5, 10)


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Score retrieval on val before and after each scorer re-ranks the first k results of a query.

    Recall at k is unchanged, because results after the first k are not scored. It measures the effect of a relation
    scorer on ordinary retrieval. Empty if val has no tokens and the scorer needs them. Captions with more tokens than
    the scorer's columns are truncated.
    """
    store, k = inputs.val.store, inputs.params.rerank
    pairs = ground_truth_pairs(store.offsets, store.caption_hashes())
    images, texts = (np.unique(pairs[:, side]) for side in (0, 1))
    truth = np.zeros((len(images), len(texts)), bool)
    truth[np.searchsorted(images, pairs[:, 0]), np.searchsorted(texts, pairs[:, 1])] = True
    captions, scorers = _captions(inputs), StudentScorers(inputs)
    listed = CaptionList((), tuple(captions[row] for row in texts))
    metrics: dict[str, Any] = {}
    for opened in scorers.scorers():
        if opened.params.kind not in TOKENLESS and not store.manifest.has_parts(PATCHES, WORDS):
            continue
        cached = CachedTokens(store, listed, opened.params, truncated=True)
        text = cached.without_tokens().texts(np.arange(len(texts))).pooled.numpy()
        tokens = scorers.tokens(cached, "val", opened.grid)
        metrics[opened.name] = {
            "k": k,
            "student": _rerank(opened, tokens, tokens.pooled[images], text, images, truth, k),
            "ceiling": _rerank(opened, cached, store.image().load()[images], text, images, truth, k),
        }
    return {"val": metrics}, {}


def _captions(inputs: EvaluationInputs) -> list[str]:
    packed = open_packed(inputs.layout.packed(inputs.val.name))
    samples = (sample for number in range(len(packed.shards)) for sample in packed.read(number, inputs.runtime.verify))
    return [caption for sample in samples for caption in sample.captions]


def _rerank(  # noqa: PLR0917  both sides of a search
    opened: OpenedScorer,
    tokens: CachedTokens | StudentTokens,
    image: Float[np.ndarray, "n d"],
    text: Float[np.ndarray, "m d"],
    rows: Int[np.ndarray, " n"],
    truth: Bool[np.ndarray, "n m"],
    k: int,
) -> dict[str, Any]:
    """Return recalls in both directions, before and after."""
    image, text = l2_normalize(image), l2_normalize(text)
    return {
        way: recalls_by_second_look(
            nearest_neighbors(queries, base, k)[1],
            right,
            lambda query, answer, turned=turned: score_pairs(
                opened.scorer, tokens, np.stack([rows[answer], query] if turned else [rows[query], answer], axis=1)
            ),
        )
        for way, queries, base, right, turned in (
            (DIRECTIONS[0], image, text, truth, False),
            (DIRECTIONS[1], text, image, truth.T, True),
        )
    }


def recalls_by_second_look(
    candidates: Int[np.ndarray, "n k"], right: Bool[np.ndarray, "n m"], score_of: Any
) -> dict[str, dict[str, float]]:
    """Return R@k in the order of the candidates, and in the order of `score_of(query, answer)`."""
    n, k = candidates.shape
    query = np.repeat(np.arange(n), k)
    scores = score_of(query, candidates.reshape(-1)).reshape(n, k)
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(right, candidates, axis=1)
    return {
        name: {f"R@{rank}": float(ranked[:, :rank].any(axis=1).mean()) for rank in RANKS}
        for name, ranked in (("before", hits), ("after", np.take_along_axis(hits, order, axis=1)))
    }
