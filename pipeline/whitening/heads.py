"""Target spaces of several teachers, concatenated for a student with one head per teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag

from cache.fingerprint import fingerprint
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.methods import TargetParams
from pipeline.whitening.moments_file import StoredMoments
from pipeline.whitening.spaces import FORMAT, Head, TargetSpace, fit_space
from pipeline.whitening.transforms import AffineTransform


def fit_heads(
    name: str, params: TargetParams, members: Sequence[CoMoments], teacher: dict[str, Any], embeddings: str
) -> TargetSpace:
    """Fit a space for each teacher to its own moments, and concatenate the spaces.

    A row of the ensemble is x = [x₁ … x_T]/√T with unit x_i. With y_i = (x_i − μ_i)W_i,

        y = [y₁ … y_T] = (x − [μ₁ … μ_T]/√T) · √T diag(W₁ … W_T),

    so that each head has the same targets as with its teacher alone, and folds back into its teacher's space. For
    texts, √T is replaced by √R with R teachers that have a text tower; the other parts of a target are zeros.

    Raises:
        UsageError: the moments are not sufficient for the parameters.
    """
    fitted = [fit_space(f"{name}: teacher {i + 1}", params, each) for i, each in enumerate(members)]
    heads = tuple(Head(each.image.forward.shape[1], each.text is not None) for each in fitted)
    image = _side_by_side([each.image for each in fitted], sqrt(len(fitted)))
    texts = [each.text for each in fitted]
    readers = sum(head.reads_text for head in heads)
    text = None
    if readers:
        blanks = [each.text or _blank(each.image) for each in fitted]
        text = _side_by_side(blanks, sqrt(readers))
    maps = {side: way.digest() for side, way in (("image", image), ("text", text)) if way is not None}
    own = params.model_dump(exclude={"teacher"})
    facts = {"format": FORMAT, "params": own, "embeddings": embeddings, "maps": maps, "heads": len(texts)}
    words = params.method, params.pre_norm, params.post_norm
    return TargetSpace(name, *words, image, text, teacher, embeddings, fingerprint(facts), heads)


def fit_target_space(name: str, params: TargetParams, stored: StoredMoments) -> TargetSpace:
    """Fit the target space of the teachers that its parameters name: of one, of their ensemble, or a head for each.

    Raises:
        UsageError: a teacher or an ensemble that was not measured, or moments that are not sufficient.
    """
    own = stored.named(*params.teachers)
    if params.combine == "heads":
        members = [stored.named(teacher).for_norm(params.pre_norm) for teacher in params.teachers]
        return fit_heads(name, params, members, own.teacher, own.embeddings_digest)
    return fit_space(name, params, own.for_norm(params.pre_norm), own.teacher, own.embeddings_digest)


def _side_by_side(ways: Sequence[AffineTransform], length: float) -> AffineTransform:
    """Return the transform of concatenated rows, each part divided by `length`."""

    def joined(field: str) -> Float[np.ndarray, " n"]:
        return np.concatenate([getattr(way, field) for way in ways])

    return AffineTransform(
        mean=joined("mean") / length,
        forward=block_diag(*(way.forward for way in ways)) * length,
        backward=block_diag(*(way.backward for way in ways)) / length,
        eigenvalues=joined("eigenvalues") / length**2,
        num_floored=sum(way.num_floored for way in ways),
        rms_norm=sqrt(sum(way.rms_norm**2 for way in ways)),
    )


def _blank(image: AffineTransform) -> AffineTransform:
    """Return the transform of the texts of a teacher without text tower: zeros to zeros."""
    d, k = image.forward.shape
    nothing = {"mean": np.zeros(d), "forward": np.zeros((d, k)), "backward": np.zeros((k, d))}
    return replace(image, **nothing, eigenvalues=np.zeros(d), num_floored=0, rms_norm=0.0)
