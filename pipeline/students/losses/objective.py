"""The training objective: a weighted sum of losses, each in units of the targets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection, renamed
from pipeline.students.losses.contrastive import PAIRWISE, AugmentedFeatureDistillation, ContrastiveBatch
from pipeline.students.losses.language import (
    LABELED,
    DistillationParams,
    LabeledBatch,
    RelativeParams,
    WeightedParams,
)
from pipeline.students.losses.rowwise import ROWWISE, DenseLoss, TargetScale, fd

MAGNITUDE_LOSSES = ("fd", "mfd", "smooth_l1")
"""Losses that determine the norm of an embedding; without them only its direction is defined."""
MAX_SCALE = 100.0
"""CLIP's limit of a learned logit scale."""

Weight = Field(default=0.0, ge=0)
LateWeight = Field(default=0.0, ge=0, exclude_if=lambda weight: weight == 0)
"""Weight of a loss added later: absent from fingerprints if zero, so that earlier students keep theirs."""


class LossParams(ParamsSection):
    """The `distill.loss:` section: a weight for each loss, in units that mean the same in every target space."""

    fd: float = Weight
    mfd: float = Weight
    smooth_l1: float = Weight
    cosine: float = Weight
    angle: float = Weight
    gram: float = Weight
    icl: float = Weight
    crd: float = Weight
    gd: float = Weight
    afd: float = Weight
    infonce: float = Weight
    label: float = LateWeight
    kd: DistillationParams = Field(default=DistillationParams(weight=0.0), exclude_if=lambda p: p.weight == 0)
    rise_absolute: float = LateWeight
    rise_relative: RelativeParams = Field(default=RelativeParams(weight=0.0), exclude_if=lambda p: p.weight == 0)
    dense: float = LateWeight
    temperature: Literal["fit", "learn"] | float = "fit"
    """Temperature of losses over pairs: fitted to the space's cached pairs, learned from there, or a number (τ)."""
    bank_size: int = renamed("bank", default=0, ge=0)
    """Number of cached captions, drawn at each step, that are additional negatives of `icl`."""
    mask_ratio: float = Field(default=0.75, ge=0, lt=1)
    """Fraction of the patches that `mfd` masks."""
    mask_patch: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossParams:
        if not self.weights:
            raise ValueError("expected at least one weight above zero, such as fd: 1.0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Return the losses in use and their weights."""
        names = (*ROWWISE, "mfd", *PAIRWISE, "afd", *LABELED, "dense")
        fields = ((name, getattr(self, name)) for name in names)
        values = {name: value.weight if isinstance(value, WeightedParams) else value for name, value in fields}
        return {name: weight for name, weight in values.items() if weight > 0}

    @property
    def needs_captions(self) -> bool:
        """Return whether a loss needs the cached captions."""
        return any(name in self.weights for name in (*PAIRWISE, "afd"))

    def without_texts(self) -> LossParams | None:
        """Return these losses without those that need captions; None if none is left."""
        if not self.weights.keys() - {*PAIRWISE, "afd"}:
            return None
        return self.model_copy(update={**dict.fromkeys((*PAIRWISE, "afd"), 0.0), "bank_size": 0})

    @property
    def uses_temperature(self) -> bool:
        """Return whether a loss has a temperature."""
        softmax = "label" in self.weights or "kd" in self.weights
        relative = "rise_relative" in self.weights and self.rise_relative.measure == "kl"
        return self.needs_captions or softmax or relative

    @property
    def needs_labels(self) -> bool:
        """Return whether a loss needs classes and the teacher's embeddings of their prompts."""
        return any(name in self.weights for name in LABELED)

    @property
    def needs_domains(self) -> bool:
        """Return whether a loss needs the class vectors of each domain."""
        return "rise_relative" in self.weights and self.rise_relative.anchors == "domains"

    @property
    def needs_patches(self) -> bool:
        """Return whether a loss needs the teacher's patch tokens."""
        return "dense" in self.weights

    @property
    def trains_text(self) -> bool:
        """Return whether any active loss trains the text tower."""
        return self.needs_captions or any(name in self.weights for name in ROWWISE)

    @property
    def scale_invariant(self) -> bool:
        """Return whether the losses leave the norm of an embedding undefined."""
        return not any(name in self.weights for name in MAGNITUDE_LOSSES)


@dataclass(frozen=True)
class StudentOutputs:
    """The student's embeddings of a batch; text if it has a text tower, masked and patches if a loss needs them."""

    image: Float[Tensor, "b k"]
    text: Float[Tensor, "b k"] | None = None
    masked: Float[Tensor, "b k"] | None = None
    patches: Float[Tensor, "b p k"] | None = None
    """The head's output at every position, for the loss `dense`."""


@dataclass(frozen=True)
class BatchTargets:
    """The targets of a batch, and the other inputs of the losses."""

    image: Float[Tensor, "b k"]
    text: Float[Tensor, "b k"] | None = None
    bank: Float[Tensor, "m k"] | None = None
    bank_mask: Bool[Tensor, "b m"] | None = None
    """Texts of the bank that belong to the image of a row."""
    label: Int[Tensor, " b"] | None = None
    classes: Float[Tensor, "c k"] | None = None
    """One unit vector per class."""
    domains: Float[Tensor, "c j k"] | None = None
    """One unit vector per class and domain."""
    teacher_classes: Float[Tensor, "c k"] | None = None
    """Class vectors of the teacher's predictions, if they differ from `classes`."""
    patches: Float[Tensor, "b p d"] | None = None
    """Unit-length patch tokens, in the space of the embeddings."""

    def part(self, selection: slice) -> BatchTargets:
        """Return some of its rows; bank and class vectors are shared by all rows."""

        def some(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[selection]

        return replace(
            self,
            image=self.image[selection],
            text=some(self.text),
            bank_mask=some(self.bank_mask),
            label=some(self.label),
            patches=some(self.patches),
        )


class Objective(nn.Module):
    """The active losses; its own parameters (a temperature, fusion layers) are discarded after training."""

    def __init__(
        self, params: LossParams, dim: int, image: TargetScale, text: TargetScale | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.dense: DenseLoss | None = None  # set if there are patch tokens, whose variance is its unit
        self.params, self.image_unit, self.text_unit = params, image, text
        self.teacher_scale = scale
        start = torch.tensor(math.log(scale))
        self.log_scale = nn.Parameter(start, requires_grad=params.temperature == "learn" and params.uses_temperature)
        self.fusion = AugmentedFeatureDistillation(dim) if "afd" in params.weights else None

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        return self.params.weights

    def forward(self, outputs: StudentOutputs, targets: BatchTargets) -> dict[str, Float[Tensor, ""]]:
        """Return each active loss, unweighted."""
        terms = {name: self._rowwise(name, outputs, targets) for name in ROWWISE if name in self.params.weights}
        if "mfd" in self.params.weights and outputs.masked is not None:
            terms["mfd"] = fd(outputs.masked, targets.image, self.image_unit)
        if self.dense is not None and outputs.patches is not None and targets.patches is not None:
            terms["dense"] = self.dense(outputs.patches, targets.patches)
        if self.params.needs_captions:
            pairs = self._pairs(outputs, targets)
            terms |= {name: loss(pairs) for name, loss in PAIRWISE.items() if name in self.params.weights}
            if self.fusion is not None:
                terms["afd"] = self.fusion(pairs)
        return terms | (self._language(outputs, targets) if self.params.needs_labels else {})

    def weighted_sum(self, terms: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """Return Σ weight · term."""
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def _rowwise(self, name: str, outputs: StudentOutputs, targets: BatchTargets) -> Float[Tensor, ""]:
        image = ROWWISE[name](outputs.image, targets.image, self.image_unit)
        if outputs.text is None or targets.text is None or self.text_unit is None:
            return image
        return image + ROWWISE[name](outputs.text, targets.text, self.text_unit)

    def _language(self, outputs: StudentOutputs, targets: BatchTargets) -> dict[str, Float[Tensor, ""]]:
        if targets.label is None or targets.classes is None:
            raise UsageError(f"distill.loss: {', '.join(LABELED)} need classes, and this split has none")
        batch = LabeledBatch(
            image=outputs.image,
            label=targets.label,
            classes=targets.classes,
            scale=self.scale,
            teacher_image=targets.image,
            teacher_scale=self.teacher_scale,
            domains=targets.domains,
            teacher_classes=targets.teacher_classes,
        )
        weights, params = self.params.weights, vars(self.params)
        return {name: loss(batch, params[name]) for name, loss in LABELED.items() if name in weights}

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Return the student's 1/τ."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    def _pairs(self, outputs: StudentOutputs, targets: BatchTargets) -> ContrastiveBatch:
        if targets.text is None:
            raise UsageError("distill.loss: icl, crd, gd, afd and infonce need captions, and this split has none")
        theirs = functional.normalize(targets.text, dim=-1)
        return ContrastiveBatch(
            student_image=functional.normalize(outputs.image, dim=-1),
            student_text=theirs if outputs.text is None else functional.normalize(outputs.text, dim=-1),
            teacher_v=functional.normalize(targets.image, dim=-1),
            teacher_s=theirs,
            scale=self.scale,
            teacher_scale=self.teacher_scale,
            bank=None if targets.bank is None else functional.normalize(targets.bank, dim=-1),
            bank_mask=targets.bank_mask,
        )
