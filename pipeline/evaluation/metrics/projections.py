"""PCA and t-SNE projections of images and texts together, for illustration only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

PERPLEXITY = 30.0
PCA_FIRST = 50
STEPS = 500
"""Half of scikit-learn's default: a few hundred points have settled by then."""


def pca(rows: Float[np.ndarray, "n d"], axes: int = 2) -> Float[np.ndarray, "n k"]:
    """Return coordinates along the first principal axes, signs fixed so that the largest weight is positive."""
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    vectors = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :axes]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    flat: Float[np.ndarray, "n k"] = centered @ (vectors * signs)
    return flat


def tsne(rows: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Return t-SNE of the first 50 principal coordinates, begun from the first two (van der Maaten & Hinton, 2008)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = pca(rows, min(PCA_FIRST, rows.shape[1]))
    start = reduced[:, :2] / reduced[:, 0].std() * 1e-4
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    model = TSNE(perplexity=perplexity, init=start, random_state=seed, learning_rate="auto", max_iter=STEPS)
    with threadpool_limits(1):  # its threads wait for each other in every step: on a busy machine, fifty times as long
        flat: Float[np.ndarray, "n 2"] = model.fit_transform(reduced)
    return flat
