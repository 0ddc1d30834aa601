"""What a scorer of tokens does to ordinary retrieval when it puts the first answers of CLIP's cosine in order.

    python benchmarks/reranking.py --root PROJECT --scorers late dcsm --split val --first 32

PROJECT has a captioned split with tokens (`embed.tokens.splits`) and fitted scorers (`relate`). Images and captions are
both the teacher's, so what is measured is the scorer and no student. R@1 of both directions, in %, before and after,
and the difference with a 95 % interval over queries (paired, normal).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

sys.path.insert(0, str(Path(__file__).parent.parent))

from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import open_packed
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, nearest_neighbors
from pipeline.project.layout import Layout
from pipeline.project.params import parse
from pipeline.relations.cached_tokens import CachedTokens, CaptionList
from pipeline.relations.fitting import score_pairs
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorer_files import load_scorer
from pipeline.relations.scorers import Scorer

HALF_WIDTH = 1.96
"""Of a 95 % interval, in standard errors."""


def main() -> None:
    """Print one line for each scorer and direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--scorers", nargs="+", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--first", type=int, default=32)
    options = parser.parse_args()
    layout = Layout(options.root)
    store = EmbeddingStore.open(layout.embeddings(options.split))
    packed = open_packed(layout.packed(options.split))
    captions = tuple(text for shard in range(len(packed.shards)) for one in packed.read(shard) for text in one.captions)
    pairs = ground_truth_pairs(store.offsets, store.caption_hashes())
    right = np.zeros((store.rows, len(captions)), bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    print(
        f"{options.split}: {store.rows} images, {len(captions)} captions, the first {options.first} answers reordered"
    )
    for name in options.scorers:
        scorer, card = load_scorer(layout.scorer(name))
        params = parse(card["params"], name, ScorerParams)
        tokens = CachedTokens(store, CaptionList((), captions), params, truncated=True)
        image, text = l2_normalize(store.image().load()), l2_normalize(store.text().load())
        for way, sides in (("image to text", (image, text, right)), ("text to image", (text, image, right.T))):
            before, after = rerank(scorer, tokens, sides, options.first, turned=way == "text to image")
            half = HALF_WIDTH * (after - before).std(ddof=1) / len(before) ** 0.5
            print(
                f"{name:12} {way}: {100 * before.mean():5.1f} -> {100 * after.mean():5.1f}, "
                f"{100 * (after - before).mean():+.1f} ± {100 * half:.1f}",
                flush=True,
            )


def rerank(
    scorer: Scorer,
    tokens: CachedTokens,
    sides: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"], Bool[np.ndarray, "n m"]],
    first: int,
    *,
    turned: bool,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return for each query whether its first answer is right, by cosine and by the scorer among cosine's first."""
    queries, base, right = sides
    answers: Int[np.ndarray, "n k"] = nearest_neighbors(queries, base, first)[1]
    query = np.repeat(np.arange(len(queries)), answers.shape[1])
    asked = np.stack([answers.ravel(), query] if turned else [query, answers.ravel()], axis=1)
    best = score_pairs(scorer, tokens, asked).reshape(answers.shape).argmax(axis=1)
    rows = np.arange(len(queries))
    return right[rows, answers[:, 0]].astype(float), right[rows, answers[rows, best]].astype(float)


if __name__ == "__main__":
    main()
