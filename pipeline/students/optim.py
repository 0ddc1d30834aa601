"""How fast a student learns, and which of its weights are held small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn
from torch.optim import Optimizer

from pipeline.project.errors import UsageError, nearest

Schedule = Literal["cosine", "linear", "constant"]
FUSED = ("adam", "adamw", "sgd")
"""Torch's own, which have one kernel for all parameters."""


def build_optimizer(
    name: str, backbone: nn.Module, others: Iterable[nn.Module], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Build any of timm's optimisers; only the backbone's matrices decay.

    The head's weights carry the scale of the target space, so decaying them would favour one space over
    another. Norms and biases never decay.

    Raises:
        UsageError: timm knows no such optimiser.
    """
    if name not in list_optimizers():
        raise UsageError(f"distill.training.optimizer: no optimiser '{name}'{nearest(name, list_optimizers())}")
    trained = [p for p in backbone.parameters() if p.requires_grad]
    free = [p for p in trained if p.ndim <= 1] + [p for m in others for p in m.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    options = {"fused": True} if name in FUSED else {}
    optimizer: Optimizer = create_optimizer_v2(groups, name, lr=learning_rate, weight_decay=0.0, **options)
    return optimizer


def rate(schedule: Schedule, peak: float, step: int, steps: int, warmup: float) -> float:
    """Return the learning rate of a step: a linear rise over the share `warmup` of the run, then the schedule.

    With x from 0 after the rise to 1 after the last step: peak·½(1 + cos πx), peak·(1 − x), or peak. A closed
    form of the step, so that a resumed run has nothing to remember; `warmup: 0.3` with cosine is one-cycle.
    """
    rise = warmup * steps
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    x = (step - rise) / max(1.0, steps - rise)
    shape = {"cosine": (1 + math.cos(math.pi * x)) / 2, "linear": 1 - x, "constant": 1.0}
    return peak * shape[schedule]
