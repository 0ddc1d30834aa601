"""How fast a student learns, and which of its weights are held small."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from pipeline.project.errors import UsageError, did_you_mean

Schedule = Literal["cosine", "linear", "constant"]
FUSED = ("adam", "adamw", "sgd")
"""Torch's own, which have one kernel for all parameters."""


HEAD_POWERS = {"adam": 1, "adamw": 1, "nadam": 1, "nadamw": 1, "sgd": 2, "momentum": 2}
"""Power of its targets' scale that a layer's rate grows with, so that it learns as it does at scale 1."""


def build_optimizer(
    name: str,
    trunks: Iterable[nn.Module],
    trained: Iterable[nn.Module],
    learning_rate: float,
    weight_decay: float,
    *,
    scaled: Sequence[tuple[nn.Module, float]] = (),
) -> Optimizer:
    """Build any of timm's optimisers for all that is trained; only the matrices of the trunks decay.

    The heads' weights carry the scale of the target space, so decaying them would favour one space over
    another. Norms and biases never decay.

    Args:
        name: One of `timm.optim.list_optimizers()`.
        trunks: Modules whose matrices decay.
        trained: Modules all of whose weights are learned.
        learning_rate: At the peak.
        weight_decay: Of the trunks' matrices.
        scaled: Layers that learn at so many times the rate: the key `lr_scale` of their group.

    Raises:
        UsageError: timm knows no such optimiser.
    """
    from timm.optim import create_optimizer_v2, list_optimizers  # parameters are read where nothing is trained, too

    if name not in list_optimizers():
        raise UsageError(f"distill.training.optimizer: no optimiser '{name}'{did_you_mean(name, list_optimizers())}")
    everything = [p for module in trained for p in module.parameters() if p.requires_grad]
    decaying = [p for trunk in trunks for p in trunk.parameters() if p.requires_grad and p.ndim > 1]
    layers = [{"params": list(layer.parameters()), "weight_decay": 0.0, "lr_scale": factor} for layer, factor in scaled]
    grouped = {id(p) for p in decaying} | {id(p) for layer, _ in scaled for p in layer.parameters()}
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": [p for p in everything if id(p) not in grouped], "weight_decay": 0.0},
        *layers,
    ]
    options = {"fused": True} if name in FUSED else {}
    optimizer: Optimizer = create_optimizer_v2(groups, name, lr=learning_rate, weight_decay=0.0, **options)
    return optimizer


def learning_rate_at(schedule: Schedule, peak: float, step: int, steps: int, warmup: float) -> float:
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
