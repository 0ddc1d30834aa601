"""One update of the weights: optimizer, learning rate, weight decay, and moving average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.project.errors import UsageError, did_you_mean
from pipeline.students.dense_tokens import PlaceFeatures
from pipeline.students.inputs.loader import Batch, BatchLoader
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import Objective
from pipeline.students.model import Student
from pipeline.students.towers import last_layer
from pipeline.students.training.state import TrainState
from pipeline.students.training.step import DistillationStep, StepOutput, init_heads, micro_batches

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

    from pipeline.students.training.params import TrainingParams

Schedule = Literal["cosine", "linear", "constant"]
FUSED = ("adam", "adamw", "sgd")
"""Torch optimizers with one kernel for all parameters."""


HEAD_POWERS = {"adam": 1, "adamw": 1, "nadam": 1, "nadamw": 1, "sgd": 2, "momentum": 2}
"""Power of the targets' scale by which a head's learning rate is multiplied, so that it trains as at scale 1."""


def build_optimizer(
    name: str,
    trunks: Iterable[nn.Module],
    trained: Iterable[nn.Module],
    learning_rate: float,
    weight_decay: float,
    *,
    scaled: Sequence[tuple[nn.Module, float]] = (),
) -> Optimizer:
    """Build a timm optimizer of all trained modules; weight decay applies only to matrices of the trunks.

    The heads' weights carry the scale of the target space; decaying them would favor one space over another. Norms and
    biases never decay.

    Args:
        name: One of `timm.optim.list_optimizers()`.
        trunks: Modules whose matrices decay.
        trained: Modules whose weights are all trained.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of the trunks' matrices.
        scaled: Layers with a factor of their learning rate: the key `lr_scale` of their group.

    Raises:
        UsageError: timm has no such optimizer.
    """
    from timm.optim import create_optimizer_v2, list_optimizers  # also read by commands that do not train

    if name not in list_optimizers():
        raise UsageError(f"distill.training.optimizer: no optimizer '{name}'{did_you_mean(name, list_optimizers())}")
    everything = [p for module in trained for p in module.parameters() if p.requires_grad]
    decaying = [p for trunk in trunks for p in trunk.parameters() if p.requires_grad and p.ndim > 1]
    layers = [{"params": list(layer.parameters()), "weight_decay": 0.0, "lr_scale": c} for layer, c in scaled]
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
    """Return the learning rate of a step: a linear warm-up over the fraction `warmup` of the run, then the schedule.

    With x from 0 after the warm-up to 1 after the last step: peak·½(1 + cos πx), peak·(1 − x), or peak. A closed form
    of the step needs no state for resuming; `warmup: 0.3` with cosine is one-cycle.
    """
    rise = warmup * steps
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    x = (step - rise) / max(1.0, steps - rise)
    shape = {"cosine": (1 + math.cos(math.pi * x)) / 2, "linear": 1 - x, "constant": 1.0}
    return peak * shape[schedule]


def relative_heads(student: Student, params: TrainingParams, targets: Targets) -> list[tuple[nn.Module, float]]:
    """Return the last layer of each head with the factor of its learning rate; empty for absolute steps.

    Targets c·y need the weights c·W. The losses are relative to the targets, so the gradient of W is divided by c.
    Adam's steps do not depend on the gradient's scale: multiplied by c they keep W in proportion. SGD's steps need c².
    Then students of y and of c·y are equal at each step, up to rounding and Adam's epsilon. c is the targets' standard
    deviation.

    Raises:
        UsageError: the optimizer's dependence on the gradient's scale is unknown.
    """
    if params.head_steps == "absolute":
        return []
    if params.optimizer not in HEAD_POWERS:
        raise UsageError(
            f"distill.training.head_steps: relative is known for {', '.join(HEAD_POWERS)}; "
            f"found optimizer: {params.optimizer}"
        )
    heads = [(student.head, targets.image_stats)]
    if student.text is not None and targets.text_stats is not None:
        heads.append((student.text.head, targets.text_stats))
    power = HEAD_POWERS[params.optimizer]
    return [(last_layer(head), math.sqrt(stats.variance) ** power) for head, stats in heads]


@dataclass(frozen=True)
class OptimizerStep:
    """One update of all weights with the training parameters: accumulation, precision, clipping, moving average."""

    learner: DistillationStep
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    params: TrainingParams
    average: ModelEmaV3 | None = None

    @classmethod
    def build(cls, student: Student, objective: Objective, feed: BatchLoader, params: TrainingParams) -> OptimizerStep:
        """Move a student and its losses to the loader's device, initialize its heads, and build the optimizer.

        Raises:
            UsageError: timm has no such optimizer.
        """
        ranks, device = feed.ranks, feed.device
        student.backbone, student.norms = ranks.convert_batchnorm(student.backbone, device)
        learner = DistillationStep(student, objective, params.precision, compiled=params.compile, ranks=ranks)
        learner.to(device).to(memory_format=torch.channels_last).train()
        if objective.params.needs_patches:
            learner.places = open_places(student, feed, compiled=params.compile)
        init_heads(learner, feed)
        optimizer = build_optimizer(
            params.optimizer,
            decayed_modules(student),
            (student, objective),
            student.params.learning_rate,
            params.weight_decay,
            scaled=relative_heads(student, params, feed.targets),
        )
        scaler = torch.amp.GradScaler(device.type, enabled=params.precision == "fp16")
        return cls(
            learner, optimizer, scaler, params, moving_average(student, params.ema_decay) if params.ema_decay else None
        )

    def __call__(
        self, forward: nn.Module, batch: Batch, learning_rate: float, *, shared: bool = False
    ) -> tuple[StepOutput, dict[str, float]]:
        """Take one step along the gradient of a batch; with `shared`, also measure each loss's share of the gradient.

        `forward` is the training module, possibly wrapped for several processes.
        """
        shares: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad()
        for part in micro_batches(batch, self.params.accumulation_steps):
            output: StepOutput = forward(part)
            shares = output.gradient_shares(self.learner.objective.weights) if shared else {}
            loss: Tensor = self.scaler.scale(output.loss * (len(part.rows) / len(batch.rows)))
            loss.backward()  # type: ignore[no-untyped-call]
        if self.params.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.student.parameters(), self.params.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return output, shares

    def average_weights(self, step: int) -> None:
        """Update the moving average, if there is one."""
        if self.average is not None:
            self.average.update(self.learner.student, step)

    @property
    def kept(self) -> Student:
        """Return the student to keep: the moving average if there is one, else the trained one."""
        student: Student = self.learner.student if self.average is None else self.average.module
        return student

    @property
    def state(self) -> TrainState:
        """Return everything that changes from step to step."""
        modules = {"learner": self.learner} | ({"average": self.average} if self.average else {})
        return TrainState(modules, self.optimizer, self.scaler)


def open_places(student: Student, feed: BatchLoader, *, compiled: bool) -> PlaceFeatures:
    """Return the function that computes a student's features of every position, for a loss over tokens.

    Raises:
        UsageError: the student has no tokens, or is compiled.
    """
    if compiled:
        raise UsageError("distill.training.compile: not together with the loss dense; leave one of them out")
    if feed.targets.patches is not None and feed.patch_side is not None:
        feed.targets.patches.check_side(feed.patch_side, student.name)
    pixels = feed.batch_at(0).pixels
    return PlaceFeatures.build(student, pixels, lambda finer: feed.ranks.convert_batchnorm(finer, feed.device)[0])


def decayed_modules(student: Student) -> list[nn.Module]:
    """Return the modules with weight decay: the backbone, and the layers of the text tower.

    Word embeddings have none, because most words are rare, and decay would shrink them between their occurrences.
    """
    return [student.backbone, *([] if student.text is None else [student.text.trunk.transformer])]


def moving_average(student: Student, decay: float) -> ModelEmaV3:
    """Return a second student with the moving average of the first one's weights."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(student, decay=decay, use_warmup=True)
