"""Losses between an image and the words for its class, for labelled sets: distilling with language guidance.

RISE (Huang et al., "A sentence speaks a thousand images", ICCV 2023) lets a student's image come near the text of
its class, and stand to a set of anchor texts as that text does. Its anchors are prompts of several domains; here
they are the classes themselves, from the cached prompts.

Rows y are the student's images; t are unit vectors, one for each class, in the target space.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def absolute(y: Float[Tensor, "b k"], label: Int[Tensor, " b"], t: Float[Tensor, "c k"]) -> Float[Tensor, ""]:
    """Absolute distance: E[1 − cos(y, t_label)]."""
    return 1 - functional.cosine_similarity(y, t[label], dim=-1).mean()


def relative(
    y: Float[Tensor, "b k"],
    label: Int[Tensor, " b"],
    t: Float[Tensor, "c k"],
    scale: Float[Tensor, ""] | float,
    teacher_scale: float,
) -> Float[Tensor, ""]:
    """Relative distances: E KL(softmax_j(s_T cos(t_label, t_j)) ‖ softmax_j(s cos(y, t_j))) over the classes j.

    Classes whose words are near each other stay near each other in what the student says of images.
    """
    mine = (scale * functional.normalize(y, dim=-1) @ t.T).log_softmax(dim=1)
    theirs = (teacher_scale * t @ t.T).log_softmax(dim=1)[label]
    return functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)


LABELLED = ("rise_absolute", "rise_relative")
