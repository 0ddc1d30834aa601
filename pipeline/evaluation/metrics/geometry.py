"""Geometry of images and texts on the unit sphere: modality gap, conformity, alignment, uniformity, and maps.

The distance of the means vanishes when each modality is centered. It is therefore reported with measures that do not
vanish: the AUC of a linear classifier of image against text, and the fraction of neighbors of the other modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from cache.normalization import l2_normalize
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.metrics.agreement import nearest_other_rows
from pipeline.evaluation.metrics.effective_rank import partition_ratio, row_spectra
from pipeline.evaluation.scoring_rules import ReferenceSpaces, image_vectors, text_vectors

if TYPE_CHECKING:  # excluded from code digests: parameters of other metrics do not affect this one
    from pipeline.evaluation.inputs import EvaluationInputs, MetricsAndTables, SplitEmbeddings

CONTROL = "centered"
"""Additional rule: the same metrics after subtracting each modality's training mean."""
Numbers: TypeAlias = dict[str, float]
RIDGE = 1e-2
"""Ridge of the linear classifier, relative to the mean variance; sufficient with fewer rows than dimensions."""
CONSTANT = 1e-12
"""A spread below this fraction of the largest value is rounding: float64 sums of a thousand terms err by 1e-13."""


def cross_modal(image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "n d"], k: int = 10) -> Numbers:
    """Measure pairs of unit vectors: image i and its caption i.

    * modality_gap ‖ū_image − ū_text‖ (Liang et al., 2022)
    * probe_auc of a linear classifier of image against text, each row scored by the classifier of the other half
    * cross_neighbors, the fraction of texts among an image's k nearest neighbors, and of images among a text's
    * alignment E‖u − v‖² of pairs (Wang & Isola, 2020)
    * matched_dprime (μ₁ − μ₀)/√((σ₁² + σ₀²)/2) of the cosines of matching and non-matching pairs
    """
    matched = np.einsum("nd,nd->n", image, text)
    strangers = np.einsum("nd,nd->n", image, np.roll(text, 1, axis=0))
    joint = nearest_other_rows(np.concatenate([image, text]), min(k, 2 * len(image) - 1))
    of_text = joint >= len(image)
    return {
        "modality_gap": float(np.linalg.norm(image.mean(axis=0) - text.mean(axis=0))),
        "probe_auc": probe_auc(image, text),
        "cross_neighbors": float((of_text[: len(image)].mean() + (~of_text[len(image) :]).mean()) / 2),
        "alignment": float(np.mean(2 - 2 * matched)),
        "matched_dprime": float((matched.mean() - strangers.mean()) / np.sqrt((matched.var() + strangers.var()) / 2)),
    }


def unimodal(rows: Float[np.ndarray, "n d"]) -> Numbers:
    """Measure the spread of unit vectors of one modality.

    * mean_cosine of two different rows
    * conformity_sd, the standard deviation of each row's mean cosine with the others
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
    """Return the area under the ROC of a linear classifier of two sets, on held-out rows.

    Two halves, each scored by the ridge discriminant w = (S + εI)⁻¹(μ₂ − μ₁) of the other.
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
    """Return the probability that a score of `high` exceeds one of `low`; ties count half (Mann & Whitney)."""
    order = np.sort(low)
    below, not_above = np.searchsorted(order, high, "left"), np.searchsorted(order, high, "right")
    return float((below.mean() + not_above.mean()) / (2 * len(low)))


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Return Spearman's rank correlation of two samples; ties get the mean of their ranks.

    NaN if one sample is constant up to rounding, because it has no order.
    """
    from scipy.stats import rankdata  # takes a second to import, and most users of this module do not need it

    if any(np.ptp(values) <= CONSTANT * np.abs(values).max() for values in (x, y)):
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def norm_statistics(rows: Float[np.ndarray, "n d"]) -> Numbers:
    """Measure the norms of unnormalized embeddings: mean, relative deviation, and the share of the mean vector.

    `mean_share` is ‖μ‖²/E‖x‖².
    """
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1)
    offset = wide.mean(axis=0)
    return {
        "mean_length": float(length.mean()),
        "relative_spread": float(length.std() / length.mean()),
        "mean_share": float(offset @ offset / np.mean(length**2)),
    }


def score(inputs: EvaluationInputs) -> MetricsAndTables:
    """Measure images of val and their first captions under each rule, and the effective rank of the images."""
    val, params = inputs.val, inputs.params
    sample = val.subsample(params.max_images)
    models = {"student": val.student[sample], "teacher": val.teacher[sample]}
    metrics: dict[str, Any] = {"n": len(sample)}
    metrics["images"] = {name: _image_metrics(images, models["teacher"]) for name, images in models.items()}
    tables = {"val-collapse": _spectrum_table(models)}
    if val.captioned:
        rows, text = val.pairs(params.max_images)
        paired = {"student": val.student[rows], "teacher": val.teacher[rows]}
        rules = {*inputs.rules, "clip", CONTROL}
        metrics["pairs"] = {rule: _pair_metrics(rule, paired, text, inputs.spaces) for rule in rules}
        vectors = l2_normalize(text)
        metrics["texts"] = {**unimodal(vectors), **row_spectra(vectors).summary(), **norm_statistics(text)}
        if params.map_pairs:
            tables["val-map"] = _map_table(val, params.map_pairs, params.seed)
    return {"val": metrics}, tables


def _image_metrics(rows: Float[np.ndarray, "n d"], teacher: Float[np.ndarray, "n d"]) -> Numbers:
    vectors = l2_normalize(rows)
    return {
        **unimodal(vectors),
        **row_spectra(vectors).summary(),
        **norm_statistics(rows),
        "partition_ratio": partition_ratio(vectors),
        "conformity_spearman": spearman(conformity(vectors), conformity(l2_normalize(teacher))),
    }


def _pair_metrics(
    rule: str, models: Mapping[str, Float[np.ndarray, "n d"]], text: Float[np.ndarray, "n d"], spaces: ReferenceSpaces
) -> dict[str, Numbers]:
    texts = text_vectors(rule, text, spaces)
    return {name: cross_modal(image_vectors(rule, images, spaces), texts) for name, images in models.items()}


def _spectrum_table(models: Mapping[str, Float[np.ndarray, "n d"]]) -> CsvTable:
    """Return both models' eigenvalues, relative to their sum; they show the directions that the student lost."""
    values = {name: row_spectra(l2_normalize(rows)).eigenvalues for name, rows in models.items()}
    shares = [values[name] / values[name].sum() for name in ("student", "teacher")]
    rows = [(i + 1, float(a), float(b)) for i, (a, b) in enumerate(zip(*shares, strict=True))]
    return CsvTable(("axis", "student", "teacher"), rows)


def _map_table(val: SplitEmbeddings, pairs: int, seed: int) -> CsvTable:
    """Return PCA and t-SNE coordinates of the same pairs by both models, images and texts together."""
    sample, text = val.pairs(pairs)
    rows: list[tuple[Any, ...]] = []
    for model, images in (("student", val.student[sample]), ("teacher", val.teacher[sample])):
        joint = np.concatenate([l2_normalize(images), l2_normalize(text)])
        points = np.concatenate([pca(joint), tsne(joint, seed)], axis=1)
        names = [(kind, val.store.keys[row]) for kind in ("image", "text") for row in sample]
        rows += [(model, *name, *map(float, point)) for name, point in zip(names, points, strict=True)]
    return CsvTable(("model", "kind", "key", "pca_x", "pca_y", "tsne_x", "tsne_y"), rows)


PERPLEXITY = 30.0
PCA_FIRST = 50
STEPS = 500
"""Half of scikit-learn's default; sufficient for a few hundred points."""


def pca(rows: Float[np.ndarray, "n d"], axes: int = 2) -> Float[np.ndarray, "n k"]:
    """Return coordinates along the first principal axes; signs are chosen so that the largest weight is positive."""
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    vectors = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :axes]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    flat: Float[np.ndarray, "n k"] = centered @ (vectors * signs)
    return flat


def tsne(rows: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Return t-SNE of the first 50 principal coordinates, initialized with two (van der Maaten & Hinton, 2008)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = pca(rows, min(PCA_FIRST, rows.shape[1]))
    start = reduced[:, :2] / reduced[:, 0].std() * 1e-4
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    model = TSNE(perplexity=perplexity, init=start, random_state=seed, learning_rate="auto", max_iter=STEPS)
    with threadpool_limits(1):  # its threads synchronize in every step: fifty times slower on a busy machine
        flat: Float[np.ndarray, "n 2"] = model.fit_transform(reduced)
    return flat
