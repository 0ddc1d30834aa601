"""Losses of labelled images against class prompts: cosines with cached vectors.

y are a student's images, t_c the unit vectors of the classes (the mean of a class's prompts), a_cj those of class c
with the templates of domain j. None of these losses determines the norm of y. Losses with a softmax are in nats, with
the fitted logit scale s = 1/τ; `rise_absolute` is in units of 1 − cos, `rise_relative: {measure: mse}` in the published
ones. The column `gradient_<loss>` of history.csv shows the effect of each loss in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor
from torch.nn import functional

from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection

RISE_FACTOR = 10.0

Scale = Float[Tensor, ""] | float


class WeightedParams(ParamsSection):
    """A loss with further settings: a plain number is its weight, with default settings."""

    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """Accept a plain number as the weight."""
        return {"weight": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @model_serializer(mode="wrap")
    def _plain(self, write: SerializerFunctionWrapHandler) -> Any:
        """Serialize default settings as the plain weight, so that fingerprints of earlier students stay valid."""
        document = write(self)
        return self.weight if self == type(self)(weight=self.weight) else document


class RelativeParams(WeightedParams):
    """Weight, anchors and measure of `rise_relative`."""

    anchors: Literal["classes", "domains"] = "classes"
    """Text vectors of all classes, or those of the image's class in each domain of the split (RISE's own)."""
    measure: Literal["kl", "mse"] = "kl"
    """`mse` is RISE's own, without a temperature; `kl` uses the fitted one."""


class DistillationParams(WeightedParams):
    """Weight of `kd`, and the temperature of both softmaxes."""

    temperature: float = Field(default=3.0, gt=0)


@dataclass(frozen=True)
class LabeledBatch:
    """A student's embeddings of labelled images, the teacher's, and the class vectors."""

    image: Float[Tensor, "b k"]
    label: Int[Tensor, " b"]
    classes: Float[Tensor, "c k"]
    scale: Scale
    teacher_image: Float[Tensor, "b k"]
    teacher_scale: Scale
    domains: Float[Tensor, "c j k"] | None = None
    teacher_classes: Float[Tensor, "c k"] | None = None
    """Class vectors of the teacher's predictions, if they differ from `classes`."""

    @property
    def directions(self) -> Float[Tensor, "b k"]:
        """Return the student's unit vectors."""
        return functional.normalize(self.image, dim=-1)

    @property
    def cosines(self) -> Float[Tensor, "b c"]:
        """Return the student's cosines with the class vectors."""
        return self.directions @ self.classes.T

    @property
    def teacher_cosines(self) -> Float[Tensor, "b c"]:
        """Return the teacher's cosines with the class vectors."""
        words = self.classes if self.teacher_classes is None else self.teacher_classes
        return functional.normalize(self.teacher_image, dim=-1) @ words.T


def label(batch: LabeledBatch, weight: float = 1.0) -> Float[Tensor, ""]:
    """Cross-entropy with the class vectors as the classifier: −E log softmax_c(s cos(y, t_c))[label]."""
    del weight  # a plain number: no other settings
    return functional.cross_entropy(batch.scale * batch.cosines, batch.label)


def kd(batch: LabeledBatch, params: DistillationParams) -> Float[Tensor, ""]:
    """Distill class probabilities: T² E KL(softmax(s_T cos(t, t_c)/T) ‖ softmax(s cos(y, t_c)/T)).

    t is the cached embedding of the same image. T² makes the size of the gradient independent of T (Hinton, Vinyals &
    Dean, 2015).
    """
    theirs = batch.teacher_scale / params.temperature * batch.teacher_cosines
    mine = batch.scale / params.temperature * batch.cosines
    return params.temperature**2 * _divergence(theirs, mine)


def rise_absolute(batch: LabeledBatch, weight: float = 1.0) -> Float[Tensor, ""]:
    """Absolute distance: E[1 − cos(y, t_label)] (Huang et al., 2023)."""
    del weight
    return 1 - functional.cosine_similarity(batch.image, batch.classes[batch.label], dim=-1).mean()


def rise_relative(batch: LabeledBatch, params: RelativeParams) -> Float[Tensor, ""]:
    """Relative distances: similarities of an image to anchor texts, compared with those of its class text.

    `kl`, at the fitted scale: E KL(softmax_j(s_T cos(t_label, a_j)) ‖ softmax_j(s cos(y, a_j))). It transfers the
    similarities between class texts to images.

    `mse`, as published: 10 · mean (softmax_j cos(y, a_j) − softmax_j cos(t_label, a_j))². Without a temperature both
    softmaxes are nearly uniform: the gradient is smaller by a factor of 20 to 2,700. The factor 10 is from the authors'
    code, not from their paper.
    """
    mine, theirs = _relations(batch, params.anchors)
    if params.measure == "kl":
        return _divergence(batch.teacher_scale * theirs, batch.scale * mine)
    return RISE_FACTOR * functional.mse_loss(mine.softmax(dim=1), theirs.softmax(dim=1))


LABELED: dict[str, Callable[[LabeledBatch, Any], Float[Tensor, ""]]] = {
    "label": label,
    "kd": kd,
    "rise_absolute": rise_absolute,
    "rise_relative": rise_relative,
}
"""Losses that need a labelled split; the second argument is the value of their key in `distill.loss`."""


def _relations(batch: LabeledBatch, anchors: str) -> tuple[Float[Tensor, "b j"], Float[Tensor, "b j"]]:
    """Return cos(y, a_j) and cos(t_label, a_j): to all classes t_j, or to the label's vector in each domain a_label,j.

    Raises:
        UsageError: domains are requested, and the split has none.
    """
    t = batch.classes
    if anchors == "classes":
        return batch.cosines, (t @ t.T)[batch.label]
    if batch.domains is None:
        raise UsageError(
            "distill.loss.rise_relative: `anchors: domains` needs a train split of several domains, each with its own "
            "`templates`; this one has none. Use `anchors: classes`."
        )
    mine = torch.einsum("bk,bjk->bj", batch.directions, batch.domains[batch.label])
    return mine, torch.einsum("ck,cjk->cj", t, batch.domains)[batch.label]


def _divergence(theirs: Float[Tensor, "b c"], mine: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    return functional.kl_div(mine.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
