"""Losses of labelled images against the words for their classes: cosines with cached prompts, nothing else.

y are a student's images, t_c the unit vectors of the classes (the mean of a class's prompts), a_cj those of class c in
the words of domain j. All of them leave the length of y undefined. Those with a softmax are in nats, with the fitted
logit scale s = 1/τ; `rise_absolute` is in units of 1 − cos, `rise_relative: {measure: mse}` in the published ones.
What each of them weighs in training is measured, not promised: `gradient_<loss>` in history.csv.
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
    """A loss with settings of its own: a plain number is its weight, the rest as it stands by default."""

    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """Take a plain number for a weight."""
        return {"weight": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @model_serializer(mode="wrap")
    def _plain(self, write: SerializerFunctionWrapHandler) -> Any:
        """Write defaults as the plain weight: a student trained before there was a choice is still that student."""
        written = write(self)
        return self.weight if self == type(self)(weight=self.weight) else written


class RelativeParams(WeightedParams):
    """The weight of `rise_relative`, what an image's relations are to, and how they are held against its words'."""

    anchors: Literal["classes", "domains"] = "classes"
    """The words for all classes, or those for its own class in each domain of the split (RISE's own)."""
    measure: Literal["kl", "mse"] = "kl"
    """`mse` is RISE's own, without a temperature; `kl` has the fitted one."""


class DistillationParams(WeightedParams):
    """The weight of `kd` and the temperature that both sides are softened by."""

    temperature: float = Field(default=3.0, gt=0)


@dataclass(frozen=True)
class LabeledBatch:
    """A student's embeddings of labelled images, and the teacher's of them and of their classes."""

    image: Float[Tensor, "b k"]
    label: Int[Tensor, " b"]
    classes: Float[Tensor, "c k"]
    scale: Scale
    teacher_image: Float[Tensor, "b k"]
    teacher_scale: Scale
    domains: Float[Tensor, "c j k"] | None = None
    teacher_classes: Float[Tensor, "c k"] | None = None
    """What the teacher names its images by, where that is not `classes`."""

    @property
    def directions(self) -> Float[Tensor, "b k"]:
        """Return the student's unit vectors."""
        return functional.normalize(self.image, dim=-1)

    @property
    def cosines(self) -> Float[Tensor, "b c"]:
        """Return the student's cosines with the words for the classes."""
        return self.directions @ self.classes.T

    @property
    def teacher_cosines(self) -> Float[Tensor, "b c"]:
        """Return the teacher's."""
        words = self.classes if self.teacher_classes is None else self.teacher_classes
        return functional.normalize(self.teacher_image, dim=-1) @ words.T


def label(batch: LabeledBatch, weight: float = 1.0) -> Float[Tensor, ""]:
    """Cross-entropy of the classes, the words being the classifier: −E log softmax_c(s cos(y, t_c))[label]."""
    del weight  # a plain number: no other settings
    return functional.cross_entropy(batch.scale * batch.cosines, batch.label)


def kd(batch: LabeledBatch, params: DistillationParams) -> Float[Tensor, ""]:
    """Distill class probabilities: T² E KL(softmax(s_T cos(t, t_c)/T) ‖ softmax(s cos(y, t_c)/T)).

    t is the cached embedding of the same image. T² keeps the gradient as large as that of `label`, whatever T
    (Hinton, Vinyals & Dean, 2015).
    """
    theirs = batch.teacher_scale / params.temperature * batch.teacher_cosines
    mine = batch.scale / params.temperature * batch.cosines
    return params.temperature**2 * _divergence(theirs, mine)


def rise_absolute(batch: LabeledBatch, weight: float = 1.0) -> Float[Tensor, ""]:
    """Absolute distance: E[1 − cos(y, t_label)] (Huang et al., 2023)."""
    del weight
    return 1 - functional.cosine_similarity(batch.image, batch.classes[batch.label], dim=-1).mean()


def rise_relative(batch: LabeledBatch, params: RelativeParams) -> Float[Tensor, ""]:
    """Relative distances: how an image stands to some texts, held against how the words for its class do.

    `kl`, at the fitted scale: E KL(softmax_j(s_T cos(t_label, a_j)) ‖ softmax_j(s cos(y, a_j))). Texts that are near
    each other stay near each other in what the student says of images.

    `mse`, as published: 10 · mean (softmax_j cos(y, a_j) − softmax_j cos(t_label, a_j))². Without a temperature both
    are nearly uniform: the gradient is smaller by 20 to 2,700 times. The factor is the authors' own (their code, not
    their paper).
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
    """Return cos(y, a_j) and cos(t_label, a_j): to all classes t_j, or to the label's words in each domain a_label,j.

    Raises:
        UsageError: domains are asked for, and the split has none.
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
