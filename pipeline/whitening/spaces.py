"""Target spaces: one transform per modality, fitted together and stored in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from cache.arrays import ArrayFile, read_arrays, write_arrays
from cache.errors import DamagedError
from cache.fingerprint import fingerprint
from pipeline.project.errors import PipelineError, UsageError
from pipeline.whitening.comoments import CoMoments, Moments, NormMode, normalize_rows, undersampled_sides
from pipeline.whitening.methods import METHODS, SPECTRAL, TargetParams
from pipeline.whitening.spectrum import shrink_covariance, shrinkage_weight
from pipeline.whitening.transforms import AffineTransform, make_transform

__all__ = ["Head", "Modality", "TargetParams", "TargetSpace", "fit_space", "fit_warnings", "load_space", "save_space"]

FORMAT = 1
_WORDS = {word: word for word in ("name", "method", "pre_norm", "post_norm", "fingerprint")} | {
    "embeddings": "embeddings_digest"
}
"""Attributes of the file, and the corresponding fields."""
_ARRAYS = ("mean", "forward", "backward", "eigenvalues")
_NUMBERS = {"floored": "num_floored", "radius": "rms_norm"}
Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Head:
    """One of several heads of a student: dimension of its targets, and whether its teacher has a text tower."""

    dim: int
    reads_text: bool


@dataclass(frozen=True)
class TargetSpace:
    """Space of a student's targets, with the inverse transform to CLIP's own space."""

    name: str
    method: str
    pre_norm: NormMode
    post_norm: NormMode
    image: AffineTransform
    text: AffineTransform | None
    teacher: dict[str, Any]
    embeddings_digest: str
    """Digest of the train embeddings to which the space was fitted."""
    fingerprint: str
    """Fingerprint of the parameters, the inputs, and the exact values of the transforms."""
    heads: tuple[Head, ...] = ()
    """For one space per teacher: the heads, in the order of their parts of a target."""

    def to_target(self, x: Float[np.ndarray, "n d"], modality: Modality = "image") -> Float[np.ndarray, "n k"]:
        """Return targets: pre-normalize, apply y = (x − μ) W, post-normalize."""
        y = self.transform(modality).apply(normalize_rows(x, self.pre_norm))
        return normalize_rows(y, self.post_norm).astype(np.float32)

    def to_embedding(self, y: Float[np.ndarray, "n k"], modality: Modality = "image") -> Float[np.ndarray, "n d"]:
        """Return the embeddings of targets: x = y W⁻¹ + μ.

        A post-normalized y has lost its norm; it is given r̄, the RMS norm of the rows to which the space was fitted.
        If embeddings were pre-normalized, x is near the unit sphere but not on it.
        """
        way = self.transform(modality)
        return way.invert(y if self.post_norm == "none" else way.rms_norm * normalize_rows(y, "l2"))

    def transform(self, modality: Modality) -> AffineTransform:
        """Return the transform of a modality.

        Raises:
            PipelineError: the space was fitted without captions, so it has no text transform.
        """
        if modality == "image":
            return self.image
        if self.text is None:
            raise PipelineError(
                f"target space '{self.name}' has no text side: the training images have no captions. For losses over "
                "class words take `method: raw`, which needs none."
            )
        return self.text


def fit_space(
    name: str, params: TargetParams, moments: CoMoments, teacher: dict[str, Any] | None = None, embeddings: str = ""
) -> TargetSpace:
    """Fit a target space to the moments of the training split.

    Raises:
        UsageError: the moments have another pre-normalization, or are not sufficient for the parameters.
    """
    if moments.pre_norm != params.pre_norm:
        raise UsageError(f"whiten.{name}: pre_norm is '{params.pre_norm}', the moments are of '{moments.pre_norm}'")
    covariances = {
        side: _covariance(f"whiten.{name}", params, side_moments) for side, side_moments in moments.by_modality.items()
    }
    if params.method == "shared-zca":
        both = list(covariances.values())
        covariances = {side: np.mean(both, axis=0) for side in covariances}
    fitted = {
        side: _fit(f"whiten.{name}: {side}", params, side_moments, covariances[side])
        for side, side_moments in moments.by_modality.items()
    }
    maps = {side: way.digest() for side, way in fitted.items()}
    own = params.model_dump(exclude={"teacher"})  # the name of a teacher does not affect results
    facts = {"format": FORMAT, "params": own, "embeddings": embeddings, "maps": maps}
    words = (params.method, params.pre_norm, params.post_norm)
    return TargetSpace(name, *words, fitted["image"], fitted.get("text"), teacher or {}, embeddings, fingerprint(facts))


def fit_warnings(name: str, params: TargetParams, moments: CoMoments) -> list[str]:
    """Return warnings about a space that is fitted to few rows.

    Out of sample, E‖y‖²/d = (1 + 1/n)(n − 1)/(n − d − 2) for whitened normal rows: 1.12 at n = 10 d.
    """
    return [
        f"whiten.{name}: {m.count} {side} rows for {len(m.mean)} dimensions: below 10 d = {10 * len(m.mean)} the "
        "small eigenvalues are mostly noise. Use a floor or shrinkage, or more rows."
        for side, m in undersampled_sides(moments).items()
        if params.method in SPECTRAL
    ]


def _covariance(where: str, params: TargetParams, moments: Moments) -> Float[np.ndarray, "d d"]:
    d = len(moments.mean)
    if params.components and (params.method != "pca" or params.components > d):
        raise UsageError(f"{where}: components={params.components} is for `method: pca` and at most d={d}")
    if not np.trace(moments.scatter) > 0:
        raise UsageError(f"{where}: all {moments.count} rows are the same: there is nothing to fit")
    weight = shrinkage_weight(moments, params.shrinkage)
    if params.method in SPECTRAL and moments.count < d + 2 and not (params.floor or params.eps or weight):
        raise UsageError(
            f"{where}: {moments.count} rows cannot fit {d} axes. Set floor or shrinkage, "
            f"or embed at least {10 * d} rows."
        )
    return shrink_covariance(moments.covariance, weight)


def _fit(where: str, params: TargetParams, moments: Moments, covariance: Float[np.ndarray, "d d"]) -> AffineTransform:
    try:
        linear = METHODS[params.method](covariance, params)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    mean = np.zeros_like(moments.mean) if params.method == "raw" else moments.mean
    return make_transform(moments, mean, linear.forward, linear.backward, linear.floored)


def save_space(path: Path, space: TargetSpace) -> None:
    """Write a target space to one file, atomically, the matrices in float64."""
    sides = {"image": space.image} | ({"text": space.text} if space.text else {})
    arrays: dict[str, np.ndarray] = {}
    attributes: dict[str, Any] = {"format": FORMAT, "teacher": json.dumps(space.teacher, sort_keys=True)}
    for side, way in sides.items():
        arrays |= {f"{side}/{name}": getattr(way, name) for name in _ARRAYS}
        attributes |= {f"{side}_{name}": getattr(way, field) for name, field in _NUMBERS.items()}
    attributes |= {word: getattr(space, field) for word, field in _WORDS.items()}
    if space.heads:
        attributes["heads"] = json.dumps([[head.dim, head.reads_text] for head in space.heads])
    write_arrays(path, arrays, attributes)


def load_space(path: Path) -> TargetSpace:
    """Read a target space.

    Raises:
        MissingError: there is no such file.
        DamagedError: it is not a target space, has another format, or another name than its file.
    """
    file = read_arrays(path)
    try:
        if file.attributes["format"] != FORMAT:
            raise DamagedError(f"{path}: another format than {FORMAT}, which this version reads. Run `whiten` again.")
        words = {field: file.attributes[word] for word, field in _WORDS.items()}
        if words["name"] != path.stem:
            raise DamagedError(f"{path}: holds the space '{words['name']}', not '{path.stem}'. Run `whiten` again.")
        text = _side(file, "text") if "text/mean" in file.arrays else None
        teacher = json.loads(file.attributes["teacher"])
        heads = tuple(Head(*head) for head in json.loads(file.attributes.get("heads", "[]")))
        return TargetSpace(**words, image=_side(file, "image"), text=text, teacher=teacher, heads=heads)
    except KeyError as error:
        raise DamagedError(f"{path}: no target space: {error} is missing. Run `whiten` again.") from None


def _side(file: ArrayFile, side: str) -> AffineTransform:
    arrays: dict[str, Any] = {name: np.array(file.arrays[f"{side}/{name}"]) for name in _ARRAYS}
    numbers: dict[str, Any] = {field: file.attributes[f"{side}_{name}"] for name, field in _NUMBERS.items()}
    return AffineTransform(**arrays, **numbers)
