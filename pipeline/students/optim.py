"""How fast a student learns, and which of its weights are held small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from pipeline.project.errors import UsageError, nearest

Schedule = Literal["cosine", "linear", "constant"]
FUSED = ("adam", "adamw", "sgd")
"""Torch's own, which have one kernel for all parameters."""


def build_optimizer(
    name: str, trunks: Iterable[nn.Module], trained: Iterable[nn.Module], learning_rate: float, weight_decay: float
) -> Optimizer:
    """Build any of timm's optimisers for all that is trained; only the matrices of the trunks decay.

    The heads' weights carry the scale of the target space, so decaying them would favour one space over
    another. Norms and biases never decay.

    Raises:
        UsageError: timm knows no such optimiser.
    """
    from timm.optim import create_optimizer_v2, list_optimizers  # parameters are read where nothing is trained, too

    if name not in list_optimizers():
        raise UsageError(f"distill.training.optimizer: no optimiser '{name}'{nearest(name, list_optimizers())}")
    everything = [p for module in trained for p in module.parameters() if p.requires_grad]
    decaying = [p for trunk in trunks for p in trunk.parameters() if p.requires_grad and p.ndim > 1]
    held = {id(p) for p in decaying}
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": [p for p in everything if id(p) not in held], "weight_decay": 0.0},
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
