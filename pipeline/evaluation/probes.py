"""What a labelled set's embeddings hold without any text: nearest neighbours and a linear probe.

Even rows teach, odd rows are judged. An unregularised probe would not see an invertible transform at all,
so features are standardised: no space wins by its scale.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from pipeline.evaluation.retrieval import nearest_neighbours
from pipeline.evaluation.rules import unit

TEMPERATURE = 0.07
"""Of the neighbours' votes (Wu et al., 2018)."""
INVERSE_PENALTIES = (0.01, 0.1, 1.0)


def knn_accuracy(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], k: int = 20) -> float:
    """Return the accuracy of k nearest neighbours by cosine, votes weighted by exp(cos/0.07)."""
    vectors = unit(rows)
    scores, found = nearest_neighbours(vectors[1::2], vectors[::2], k)
    votes = np.zeros((len(scores), int(labels.max()) + 1))
    voters = np.repeat(np.arange(len(scores)), scores.shape[1])
    np.add.at(votes, (voters, labels[::2][found].ravel()), np.exp(scores.ravel().astype(np.float64) / TEMPERATURE))
    return float(np.mean(votes.argmax(axis=1) == labels[1::2]))


def linear_accuracy(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the accuracy of logistic regression; its penalty is the best on a quarter of the teaching rows."""
    from sklearn.linear_model import LogisticRegression

    taught, judged = rows[::2].astype(np.float64), rows[1::2].astype(np.float64)
    centre, scale = taught.mean(axis=0), np.maximum(taught.std(axis=0), np.finfo(np.float32).eps)
    taught, judged = (taught - centre) / scale, (judged - centre) / scale
    held_out = np.arange(len(taught)) % 4 == 3
    own = labels[::2]

    def fitted(penalty: float, where: Int[np.ndarray, " m"]) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=1000, tol=1e-3).fit(taught[where], own[where])

    scores = [fitted(c, np.flatnonzero(~held_out)).score(taught[held_out], own[held_out]) for c in INVERSE_PENALTIES]
    best = fitted(INVERSE_PENALTIES[int(np.argmax(scores))], np.arange(len(taught)))
    return float(best.score(judged, labels[1::2]))
