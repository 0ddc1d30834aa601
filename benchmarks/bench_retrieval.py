"""Measure ranking in both directions of retrieval at COCO-val's size, against the bare matrix product.

    python benchmarks/bench_retrieval.py [--images 5000] [--captions 5] [--dim 512] [--rounds 5]

Random rows: no query is settled by the head of its list, the slowest case. Medians over the rounds, in turns.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import seconds
from cache.normalization import l2_normalize
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, rank_candidates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 5000, "captions": 5, "dim": 512, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    n, m, rng = options.images, options.images * options.captions, np.random.default_rng(0)
    image, text = (l2_normalize(rng.normal(size=(rows, options.dim)).astype(np.float32)) for rows in (n, m))
    pairs = ground_truth_pairs(np.arange(0, m + 1, options.captions), np.arange(m))

    def ours() -> None:
        rank_candidates(image, text, pairs)
        rank_candidates(text, image, pairs[:, ::-1])

    def product() -> None:
        image @ text.T
        text @ image.T

    rounds = [(seconds(ours), seconds(product)) for _ in range(options.rounds)]
    mine, bare = np.median(rounds, axis=0)
    ratio = np.median([a / b for a, b in rounds])
    print(
        f"{platform.machine()}, numpy {np.__version__}: {n} images x {m} captions x {options.dim}, both ways: "
        f"{mine:.2f} s; two bare products {bare:.2f} s; {ratio:.1f} x"
    )


if __name__ == "__main__":
    main()
