"""Where images and texts lie on the sphere: gap, conformity, alignment, uniformity.

A gap of means vanishes under any centring of each modality, so it is read beside measures that do not:
how well a line tells images from texts, and how many of a row's neighbours are of the other kind.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.metrics.agreement import nearest_other_rows

Numbers: TypeAlias = dict[str, float]
RIDGE = 1e-2
"""Of the probe, relative to the mean variance: enough where there are fewer rows than dimensions."""
CONSTANT = 1e-12
"""A spread below this share of the largest value is rounding: float64 sums of a thousand terms err by some 1e-13."""


def cross_modal(image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "n d"], k: int = 10) -> Numbers:
    """Measure pairs of unit vectors, image i beside its caption i.

    * modality_gap ‖ū_image − ū_text‖ (Liang et al., 2022)
    * probe_auc of a line between images and texts, each row judged by the half that did not see it
    * cross_neighbours, the share of texts among an image's k nearest and of images among a text's
    * alignment E‖u − v‖² of pairs (Wang & Isola, 2020)
    * matched_dprime (μ₁ − μ₀)/√((σ₁² + σ₀²)/2) of the cosines of pairs and of strangers
    """
    matched = np.einsum("nd,nd->n", image, text)
    strangers = np.einsum("nd,nd->n", image, np.roll(text, 1, axis=0))
    joint = nearest_other_rows(np.concatenate([image, text]), min(k, 2 * len(image) - 1))
    of_text = joint >= len(image)
    return {
        "modality_gap": float(np.linalg.norm(image.mean(axis=0) - text.mean(axis=0))),
        "probe_auc": probe_auc(image, text),
        "cross_neighbours": float((of_text[: len(image)].mean() + (~of_text[len(image) :]).mean()) / 2),
        "alignment": float(np.mean(2 - 2 * matched)),
        "matched_dprime": float((matched.mean() - strangers.mean()) / np.sqrt((matched.var() + strangers.var()) / 2)),
    }


def unimodal(rows: Float[np.ndarray, "n d"]) -> Numbers:
    """Measure the spread of unit vectors of one kind.

    * mean_cosine of two different rows
    * conformity_sd, the spread of each row's mean cosine with the others
    * uniformity ln E exp(−2‖u − v‖²) (Wang & Isola, 2020); a uniform sphere has about −4 + 8/d
    """
    every = conformity(rows)
    return {"mean_cosine": float(every.mean()), "conformity_sd": float(every.std()), "uniformity": uniformity(rows)}


def conformity(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return each unit row's mean cosine with all others, exactly, in O(nd).

    c_j = (n u_j·ū − 1)/(n − 1) with ū the mean of the unit rows. (The cosine with ū that Levi & Gilboa, 2024,
    use is this up to scale.)
    """
    vectors = rows.astype(np.float64)
    own: Float[np.ndarray, " n"] = (len(rows) * (vectors @ vectors.mean(axis=0)) - 1) / (len(rows) - 1)
    return own


def uniformity(rows: Float[np.ndarray, "n d"]) -> float:
    """Return ln of the mean of exp(−2‖u − v‖²) over pairs of different unit rows."""
    cosines = rows.astype(np.float64) @ rows.astype(np.float64).T
    kernel = np.exp(4 * cosines - 4)
    return float(np.log((kernel.sum() - np.trace(kernel)) / (len(rows) * (len(rows) - 1))))


def probe_auc(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """Return how well a line tells two sets apart: area under the ROC, on rows that it was not fitted on.

    Two halves, each judged by the ridge discriminant w = (S + εI)⁻¹(μ₂ − μ₁) of the other.
    """
    areas = []
    for half in (0, 1):
        fitted, judged = ([rows[where::2].astype(np.float64) for rows in (first, second)] for where in (half, 1 - half))
        means = [rows.mean(axis=0) for rows in fitted]
        within = np.concatenate([rows - mean for rows, mean in zip(fitted, means, strict=True)])
        scatter = within.T @ within / len(within)
        ridge = RIDGE * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        line = np.linalg.solve(scatter + ridge, means[1] - means[0])
        areas.append(auc(judged[0] @ line, judged[1] @ line))
    return float(np.mean(areas))


def auc(low: Float[np.ndarray, " n"], high: Float[np.ndarray, " m"]) -> float:
    """Return the probability that a score of `high` beats one of `low`, ties half (Mann & Whitney)."""
    order = np.sort(low)
    below, not_above = np.searchsorted(order, high, "left"), np.searchsorted(order, high, "right")
    return float((below.mean() + not_above.mean()) / (2 * len(low)))


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Return Spearman's rank correlation of two samples, equal values sharing the mean of their ranks.

    NaN where one of them is the same everywhere, but for rounding: it puts nothing in an order.
    """
    from scipy.stats import rankdata  # a second to import, and most users of this module do not need it

    if any(np.ptp(values) <= CONSTANT * np.abs(values).max() for values in (x, y)):
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def norm_statistics(rows: Float[np.ndarray, "n d"]) -> Numbers:
    """Measure the shell that embeddings fill before normalisation: mean length, its relative spread, the mean's share.

    `mean_share` is ‖μ‖²/E‖x‖²: how much of the length the common offset is.
    """
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1)
    offset = wide.mean(axis=0)
    return {
        "mean_length": float(length.mean()),
        "relative_spread": float(length.std() / length.mean()),
        "mean_share": float(offset @ offset / np.mean(length**2)),
    }
