"""Losses over all pairs of a batch, with CLIP-KD's names (Yang et al., 2024).

Rows are unit vectors: v images and s texts of the student, vT and sT of the teacher, all of one batch; row k of each
belongs to the same pair. `scale` is 1/τ. A student without a text tower uses the teacher's cached text embeddings as s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ContrastiveBatch:
    """Unit vectors of a batch by student and teacher."""

    student_image: Float[Tensor, "b k"]
    student_text: Float[Tensor, "b k"]
    teacher_v: Float[Tensor, "b k"]
    teacher_s: Float[Tensor, "b k"]
    scale: Float[Tensor, ""]
    teacher_scale: float
    bank: Float[Tensor, "m k"] | None = None
    """Additional texts of the teacher, as negatives."""
    bank_mask: Bool[Tensor, "b m"] | None = None
    """Texts of the bank that belong to the image itself, and are not negatives."""


def clip_loss(a: Float[Tensor, "b k"], b: Float[Tensor, "b k"], scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """½[CE(scale·a bᵀ) + CE(scale·b aᵀ)] with the diagonal as labels."""
    logits = scale * a @ b.T
    truth = torch.arange(len(a), device=a.device)
    return (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2


def infonce(pairs: ContrastiveBatch) -> Float[Tensor, ""]:
    """CLIP's own loss between the student's two towers."""
    return clip_loss(pairs.student_image, pairs.student_text, pairs.scale)


def icl(pairs: ContrastiveBatch) -> Float[Tensor, ""]:
    """Interactive contrastive learning: ½[CE(v·sT/τ) + CE(s·vT/τ)], each tower against the teacher's other tower.

    Bank texts are additional negatives of the first term. If s is the teacher's own, the second term is constant and is
    omitted.
    """
    truth = torch.arange(len(pairs.student_image), device=pairs.student_image.device)
    logits = pairs.scale * pairs.student_image @ pairs.teacher_s.T
    if pairs.bank is not None:
        more = pairs.scale * pairs.student_image @ pairs.bank.T
        more = more if pairs.bank_mask is None else more.masked_fill(pairs.bank_mask, -torch.inf)
        logits = torch.cat([logits, more], dim=1)
    image = functional.cross_entropy(logits, truth)
    if pairs.student_text is pairs.teacher_s:
        return image
    return (image + functional.cross_entropy(pairs.scale * pairs.student_text @ pairs.teacher_v.T, truth)) / 2


def crd(pairs: ContrastiveBatch) -> Float[Tensor, ""]:
    """Contrastive relational distillation: ½[KL(pT‖p) over rows + over columns], p = softmax(v sᵀ/τ)."""
    mine = pairs.scale * pairs.student_image @ pairs.student_text.T
    theirs = pairs.teacher_scale * pairs.teacher_v @ pairs.teacher_s.T
    return (_divergence(theirs, mine) + _divergence(theirs.T, mine.T)) / 2


def gd(pairs: ContrastiveBatch) -> Float[Tensor, ""]:
    """Gradient distillation: ½ Σ over both modalities of ‖g − gT‖²/‖g₀‖², g the gradient of CLIP's loss.

    Both directions of the loss, image-to-text and text-to-image, in closed form (`clip_gradients`). g₀ is the teacher's
    gradient for uniform probabilities (p = 1/B). With it as the unit, no weight of 10⁸ is needed, and a teacher that is
    nearly always right, with almost no gradient, causes no problem.
    """
    mine = clip_gradients(pairs.student_image, pairs.student_text, pairs.scale)
    scale = torch.as_tensor(pairs.teacher_scale).to(pairs.student_image)
    theirs = clip_gradients(pairs.teacher_v, pairs.teacher_s, scale)
    tiny, unit = torch.finfo(pairs.student_image.dtype).tiny, scale / len(pairs.student_image)
    guesses = [unit * (side - side.mean(0)) for side in (pairs.teacher_s, pairs.teacher_v)]
    gaps = [(a - b).square().sum() for a, b in zip(mine, theirs, strict=True)]
    return torch.stack([g / z.square().sum().clamp_min(tiny) for g, z in zip(gaps, guesses, strict=True)]).mean()


def clip_gradients(
    v: Float[Tensor, "b k"], s: Float[Tensor, "b k"], scale: Float[Tensor, ""]
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Return ∂L/∂v and ∂L/∂s of CLIP's loss, L = ½[CE(scale·v sᵀ) + CE(scale·s vᵀ)], in closed form.

    With p_k[b] the probability of text b among all texts for image k, and q_b[k] that of image k among all images
    for text b, R = ½(p + qᵀ) − 1 and

        ∂L/∂v_k = (1/τB) Σ_b R_kb s_b,   ∂L/∂s_b = (1/τB) Σ_k R_kb v_k.
    """
    logits = scale * v @ s.T
    residual = (logits.softmax(dim=1) + logits.softmax(dim=0)) / 2 - torch.eye(len(v), device=v.device, dtype=v.dtype)
    return residual @ s * (scale / len(v)), residual.T @ v * (scale / len(v))


class AugmentedFeatureDistillation(nn.Module):
    """Augmented feature distillation: CLIP's loss on fused student and teacher embeddings, normalize(W[v̄; v̄T]).

    The fusion layers are trained with the student and discarded with the objective.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.image = nn.Linear(2 * dim, dim)
        self.text = nn.Linear(2 * dim, dim)

    def forward(self, pairs: ContrastiveBatch) -> Float[Tensor, ""]:
        """Return the loss of the fused pairs."""
        image = functional.normalize(self.image(torch.cat([pairs.student_image, pairs.teacher_v], dim=1)), dim=-1)
        text = functional.normalize(self.text(torch.cat([pairs.student_text, pairs.teacher_s], dim=1)), dim=-1)
        return clip_loss(image, text, pairs.scale)


def _divergence(theirs: Float[Tensor, "b c"], mine: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    return functional.kl_div(mine.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)


PAIRWISE = {"infonce": infonce, "icl": icl, "crd": crd, "gd": gd}
