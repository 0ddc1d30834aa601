"""Units, temperature and output norms, measured on the cached targets of one space, or of one per teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.evaluation.metrics.calibration import fit_logit_scale
from pipeline.project.errors import UsageError
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.contrastive import clip_loss
from pipeline.students.losses.objective import MAX_SCALE, BatchTargets, LossParams, Objective, StudentOutputs
from pipeline.students.model import Student
from pipeline.whitening.spaces import Head, TargetSpace


class HeadsObjective(Objective):
    """The mean of the heads' objectives.

        L = 1/T Σ_i Σ_loss w_loss L_loss(y_i, t_i; σ_i²)

    Each head's errors are relative to the variance of its own targets (RADIO's balancing; Ranzinger et al., "PHI-S",
    2024), so that no teacher has more weight because of a larger variance. Terms are named `fd_1`, `fd_2`, …
    """

    def __init__(self, objectives: Sequence[Objective], heads: Sequence[Head]) -> None:
        nn.Module.__init__(self)
        self.params = objectives[0].params
        self.objectives = nn.ModuleList(objectives)
        self.heads = tuple(heads)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        each = [objective.params.weights for objective in self._each()]
        return {f"{name}_{i}": w / len(each) for i, own in enumerate(each, 1) for name, w in own.items()}

    def forward(self, outputs: StudentOutputs, targets: BatchTargets) -> dict[str, Float[Tensor, ""]]:
        """Return each head's losses, unweighted."""
        terms: dict[str, Float[Tensor, ""]] = {}
        end = 0
        for number, (head, objective) in enumerate(zip(self.heads, self._each(), strict=True), 1):
            block, end = slice(end, end + head.dim), end + head.dim
            own = objective(_outputs(outputs, block), _targets(targets, block, head.reads_text))
            terms |= {f"{name}_{number}": term for name, term in own.items()}
        return terms

    def _each(self) -> list[Objective]:
        return list(self.objectives)  # type: ignore[arg-type]  # a ModuleList gives modules


def _outputs(outputs: StudentOutputs, block: slice) -> StudentOutputs:
    return StudentOutputs(outputs.image[:, block], None, None if outputs.masked is None else outputs.masked[:, block])


def _targets(targets: BatchTargets, block: slice, reads_text: bool) -> BatchTargets:
    text, bank = (None if rows is None or not reads_text else rows[:, block] for rows in (targets.text, targets.bank))
    return BatchTargets(targets.image[:, block], text, bank, None if bank is None else targets.bank_mask)


SMALL_TARGET_STD = 0.3
"""Standard deviation of targets below which Adam's steps are large relative to the head (docs/evidence.md)."""
FIT_ROWS = 512
"""Number of pairs to which the temperature is fitted: about a batch, as in the losses."""


def build_objective(params: LossParams, targets: Targets) -> Objective:
    """Build the active losses, with units and temperature measured on the targets.

    Raises:
        UsageError: a loss over pairs without captions.
    """
    if targets.heads:
        return HeadsObjective([build_objective(own, each) for own, each in _of_heads(params, targets)], targets.heads)
    scale = 1.0
    if params.uses_temperature:
        scale = fit_training_logit_scale(targets) if isinstance(params.temperature, str) else 1 / params.temperature
    objective = Objective(params, targets.image.shape[-1], targets.image_stats, targets.text_stats, scale)
    if params.needs_patches and targets.patches is not None:
        objective.dense = targets.patches.loss()
    return objective


def _of_heads(params: LossParams, targets: Targets) -> Iterator[tuple[LossParams, Targets]]:
    """Yield the losses and targets of each head; without losses over pairs if its teacher has no text tower.

    Raises:
        UsageError: losses over labels, losses that leave a head's norm undefined, or no loss for a head.
    """
    if params.needs_labels:
        raise UsageError("distill.loss: rise_absolute and rise_relative are for one teacher, or an ensemble")
    if params.scale_invariant:
        raise UsageError("distill.loss: a head for each teacher needs a loss that says its length: add fd")
    for number, (head, own) in enumerate(zip(targets.heads, targets.by_head, strict=True), 1):
        images_only = params.without_texts()
        if not head.reads_text and params.needs_captions and images_only is None:
            raise UsageError(f"distill.loss: the teacher of head {number} reads no text: add a loss over images, fd")
        yield (params if head.reads_text or images_only is None else images_only), own


def set_output_norms(student: Student, params: LossParams, targets: Targets) -> None:
    """Set the output norm of a student whose losses leave it undefined to the RMS norm of the targets."""
    if params.scale_invariant:
        student.radius = targets.image_stats.rms_norm
        if student.text is not None and targets.text_stats is not None:
            student.text.radius = targets.text_stats.rms_norm


def is_length_undefined(params: LossParams, space: TargetSpace) -> bool:
    """Return whether the norm of a trained output is undefined: no loss determines it, or the space normalizes.

    Un-whitening then uses the RMS norm of the space. In training, normalized targets do have a norm, which FD teaches;
    there only the losses matter (`set_output_norms`).
    """
    return params.scale_invariant or space.post_norm == "l2"


def small_target_warning(space: str, params: LossParams, optimizer: str, targets: Targets) -> str | None:
    """Return a warning if targets are small relative to Adam's steps, which do not scale with them.

    A head's initial weights are as small as the targets' standard deviation σ, but its steps have the same size as
    those of the layers before it: relative to its weights, it changes 1/σ times as fast, whatever the unit of the loss.
    """
    deviation = math.sqrt(targets.image_stats.variance)
    if params.scale_invariant or optimizer.startswith("sgd") or deviation >= SMALL_TARGET_STD:
        return None
    return (
        f"distill: targets in '{space}' have a standard deviation of {deviation:.2g}, and steps of {optimizer} do not "
        f"shrink with them: the head learns at about {1 / deviation:.0f} times the rate of the rest. `scale` has the "
        "same shape at unit variance, and `head_steps: relative` slows the head down."
    )


def fit_training_logit_scale(targets: Targets) -> float:
    """Return the 1/τ that minimizes CLIP's loss on cached pairs, or on cached classes, of this space.

    A fixed τ would favor spaces whose cosines happen to fit it.

    Raises:
        UsageError: the split has neither captions nor labels.
    """
    count = targets.image.shape[1]
    rows = np.linspace(0, count - 1, min(FIT_ROWS, count)).astype(np.int64)
    image = _unit(targets.image[0, rows])
    loss = partial(clip_loss, image)
    if targets.labels is not None and targets.classes is not None:
        loss = partial(_class_loss, image, torch.from_numpy(targets.labels[rows]))
        text = _unit(targets.classes if targets.teacher_classes is None else targets.teacher_classes)
    elif targets.text is not None:
        text = _unit(targets.first_texts(rows))
    else:
        raise UsageError("distill.loss: icl, crd, gd, afd and infonce need captions, and the train split has none")

    return fit_logit_scale(lambda scale: loss(text, torch.tensor(scale, dtype=torch.float64)).item(), MAX_SCALE)


def _class_loss(
    image: Float[Tensor, "n k"], label: Int[Tensor, " n"], classes: Float[Tensor, "c k"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    return functional.cross_entropy(scale * image @ classes.T, label)


def _unit(rows: Float[np.ndarray, "n k"]) -> Float[Tensor, "n k"]:
    return functional.normalize(torch.from_numpy(rows).double(), dim=-1)
