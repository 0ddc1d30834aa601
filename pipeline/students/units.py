"""What the losses are counted in, measured on the cached targets of one space."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from pipeline.project.errors import UsageError
from pipeline.students.contrastive import clip_loss
from pipeline.students.losses import measure_unit
from pipeline.students.model import Student
from pipeline.students.objective import SCALE_LIMIT, LossParams, Objective
from pipeline.students.targets import Targets, spread

FIT_ROWS = 512
"""Pairs that the temperature is fitted to: about a batch, as the losses will see them."""


def build_objective(params: LossParams, targets: Targets) -> Objective:
    """Build the losses in use, with their units and temperature measured on the targets.

    Raises:
        UsageError: a loss over pairs, and no captions.
    """
    dim = targets.image.shape[-1]
    image = measure_unit(targets.image.reshape(-1, dim))
    text = None if targets.text is None else measure_unit(targets.text)
    scale = 1.0
    if params.pairs:
        scale = fit_scale(targets) if isinstance(params.temperature, str) else 1 / params.temperature
    return Objective(params, dim, image, text, scale)


def measure_lengths(student: Student, params: LossParams, targets: Targets) -> None:
    """Let a student whose losses leave lengths undefined speak with the targets' mean length."""
    if params.directional:
        student.radius = spread(targets.image).radius
        if student.text is not None and targets.text is not None:
            student.text.radius = spread(targets.text).radius


def fit_scale(targets: Targets) -> float:
    """Return the 1/τ that makes CLIP's loss smallest on cached pairs: each space has its own.

    One fixed τ would favour the space whose cosines happen to be spread that way.

    Raises:
        UsageError: the split has no captions.
    """
    from scipy.optimize import minimize_scalar  # half a second, for the losses over pairs only

    if targets.text is None:
        raise UsageError("distill.loss: icl, crd, gd, afd and infonce need captions, and the train split has none")
    count = targets.image.shape[1]
    rows = np.linspace(0, count - 1, min(FIT_ROWS, count)).astype(np.int64)
    sides = targets.image[0, rows], targets.text[targets.captions_of(rows)[0]]
    image, text = (functional.normalize(torch.from_numpy(side).double(), dim=-1) for side in sides)

    def loss(log_scale: float) -> float:
        return clip_loss(image, text, torch.tensor(log_scale, dtype=torch.float64).exp()).item()

    return math.exp(float(minimize_scalar(loss, bounds=(0.0, SCALE_LIMIT), method="bounded").x))
