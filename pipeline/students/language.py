"""Losses between an image and the words for its class, for labelled sets: distilling with language guidance.

RISE (Huang et al., "A sentence speaks a thousand images", ICCV 2023) lets a student's image come near the text of
its class, and stand to a set of anchor texts as that text does. Its anchors are prompts of several domains, and its
measure is the squared error of probabilities without a temperature. Here the anchors are the classes themselves, from
the cached prompts, and the measure is that one (`mse`), or the divergence at the fitted temperature (`kl`).

Rows y are the student's images; t are unit vectors, one for each class, in the target space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor
from torch.nn import functional

from pipeline.project.params import Section

RISE_FACTOR = 10.0


def absolute(y: Float[Tensor, "b k"], label: Int[Tensor, " b"], t: Float[Tensor, "c k"]) -> Float[Tensor, ""]:
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


class RelativeParams(Section):
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
