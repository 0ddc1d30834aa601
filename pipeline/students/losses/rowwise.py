"""Losses between a student's embeddings and the cached ones of the same inputs, row by row.

All are counted in units of the targets themselves, so that one weight means the same in every target space:
squared errors over the targets' variance (NMSE), angles over the targets' own spread of angles. Predicting the
targets' mean costs 1 in `fd`, whatever the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor
from torch.nn import functional

from pipeline.project.params import ParamsSection

EDGE = 1e-6
"""arccos has an infinite slope at ±1: float32 cosines are kept this far inside."""


@dataclass(frozen=True)
class TargetScale:
    """What one unit of error is, from the targets of one modality."""

    variance: float
    """E‖y − ȳ‖²/k."""
    dispersion: float
    """E θ², θ being the angle between a target and the targets' mean direction."""


def measure_target_scale(targets: Float[np.ndarray, "n k"]) -> TargetScale:
    """Measure both units over all rows, in float64.

    Disp(θ) = E[∠(y, ȳ̂)²] with ȳ̂ the direction of the mean of the unit vectors (RADIOv2.5's balancing of angles).
    """
    rows = targets.astype(np.float64)
    directions = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    mean = directions.mean(axis=0)
    cosines = directions @ (mean / max(float(np.linalg.norm(mean)), np.finfo(np.float64).tiny))
    return TargetScale(float(rows.var(axis=0).mean()), float(np.square(np.arccos(np.clip(cosines, -1, 1))).mean()))


def fd(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """Feature distillation: mean (y − t)²/Var(t), the share of the targets' variance left unexplained."""
    return functional.mse_loss(y, t) / unit.variance


def smooth_l1(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """Huber's loss on (y − t)/σ with β = 1: like fd/2 near the target, linear beyond one deviation."""
    return functional.smooth_l1_loss(y / unit.variance**0.5, t / unit.variance**0.5)


def cosine(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """1 − cos(y, t): the length of y is left undefined."""
    del unit  # a cosine has none
    return 1 - functional.cosine_similarity(y, t, dim=-1).mean()


def angle(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """E θ(y, t)²/Disp(θ): RADIO's loss for summary vectors; the length of y is left undefined."""
    cosines = functional.cosine_similarity(y, t, dim=-1).clamp(-1 + EDGE, 1 - EDGE)
    return torch.arccos(cosines).square().mean() / unit.dispersion


def gram(y: Float[Tensor, "b k"], t: Float[Tensor, "b k"], unit: TargetScale) -> Float[Tensor, ""]:
    """Relations within the batch: ‖ȲȲᵀ − T̄T̄ᵀ‖²/‖T̄T̄ᵀ − 1̄‖², bars for unit rows, 1̄ for their mean.

    Blind to any rotation of y and to its length.
    """
    del unit  # the batch's own relations are the measure
    mine, theirs = (functional.normalize(rows, dim=-1) @ functional.normalize(rows, dim=-1).T for rows in (y, t))
    return (mine - theirs).square().mean() / theirs.var(correction=0).clamp_min(torch.finfo(theirs.dtype).tiny)


ROWWISE = {"fd": fd, "smooth_l1": smooth_l1, "cosine": cosine, "angle": angle, "gram": gram}


RISE_FACTOR = 10.0


def rise_absolute(y: Float[Tensor, "b k"], label: Int[Tensor, " b"], t: Float[Tensor, "c k"]) -> Float[Tensor, ""]:
    """Absolute distance: E[1 − cos(y, t_label)]."""
    return 1 - functional.cosine_similarity(y, t[label], dim=-1).mean()


@dataclass(frozen=True)
class Anchors:
    """Where a student's images stand to some texts, and where the words of their classes do: cosines."""

    student: Float[Tensor, "b j"]
    teacher: Float[Tensor, "b j"]


def class_anchors(y: Float[Tensor, "b k"], label: Int[Tensor, " b"], t: Float[Tensor, "c k"]) -> Anchors:
    """Take the words of all classes as anchors: cos(y, t_j) and cos(t_label, t_j) over the classes j."""
    return Anchors(functional.normalize(y, dim=-1) @ t.T, (t @ t.T)[label])


def relative_kl(
    anchors: Anchors, scale: Float[Tensor, ""] | float, teacher_scale: Float[Tensor, ""] | float
) -> Float[Tensor, ""]:
    """Relative distances as a divergence: E KL(softmax_j(s_T cos(t_label, a_j)) ‖ softmax_j(s cos(y, a_j))).

    Anchors that are near each other stay near each other in what the student says of images.
    """
    mine = (scale * anchors.student).log_softmax(dim=1)
    theirs = (teacher_scale * anchors.teacher).log_softmax(dim=1)
    return functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def relative_mse(anchors: Anchors) -> Float[Tensor, ""]:
    """Relative distances as published: 10 · mean (softmax_j cos(y, a_j) − softmax_j cos(t_label, a_j))².

    Without a temperature both are nearly uniform: the gradient is smaller than `relative_kl`'s by 20 to 2,700 times.
    The factor is the authors' own (their code, not their paper).
    """
    return RISE_FACTOR * functional.mse_loss(anchors.student.softmax(dim=1), anchors.teacher.softmax(dim=1))


class RelativeParams(ParamsSection):
    """The weight of `rise_relative`, what an image's relations are to, and how they are held against its words'."""

    weight: float = Field(default=1.0, ge=0)
    anchors: Literal["classes"] = "classes"
    measure: Literal["kl", "mse"] = "kl"
    """`mse` is RISE's own, without a temperature; `kl` has the fitted one."""

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """Take a plain number for a weight."""
        return {"weight": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @model_serializer(mode="wrap")
    def _plain(self, write: SerializerFunctionWrapHandler) -> Any:
        """Write defaults as the plain weight: a student trained before there was a choice is still that student."""
        written = write(self)
        return self.weight if self == RelativeParams(weight=self.weight) else written


LABELLED = ("rise_absolute", "rise_relative")
