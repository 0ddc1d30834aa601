"""One update of the weights: optimizer, learning rate, which weights decay, and the moving average."""

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


def relative_heads(student: Student, params: TrainingParams, targets: Targets) -> list[tuple[nn.Module, float]]:
    """Return the last layer of each head with the factor of its learning rate, or nothing where steps are absolute.

    Targets c·y want the weights c·W. The losses are counted in units of the targets, so the gradient of W is 1/c of
    what it was. Adam's steps do not see that: times c they keep W in proportion. Those of SGD need c². Then students
    of y and of c·y are one at each step, up to rounding and Adam's epsilon. c is the targets' standard deviation.

    Raises:
        UsageError: it is not known how the optimizer's steps depend on the gradient's length.
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
    """One update of all weights, as the training parameters ask for it: parts, precision, clipping, moving average."""

    learner: DistillationStep
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    params: TrainingParams
    average: ModelEmaV3 | None = None

    @classmethod
    def build(cls, student: Student, objective: Objective, feed: BatchLoader, params: TrainingParams) -> OptimizerStep:
        """Put a student and its losses on the loader's device, start its heads, and build their optimizer.

        Raises:
            UsageError: timm knows no such optimizer.
        """
        ranks, device = feed.ranks, feed.device
        student.backbone, student.norms = ranks.convert_batchnorm(student.backbone, device)
        learner = DistillationStep(student, objective, params.precision, compiled=params.compile, ranks=ranks)
        learner.to(device).to(memory_format=torch.channels_last).train()
        if objective.params.needs_patches:
            learner.places = open_places(student, feed, compiled=params.compile)
        init_heads(student, feed)
        optimizer = build_optimizer(
            params.optimizer,
            decayed_modules(student),
            (student, objective),
            student.params.learning_rate,
            params.weight_decay,
            scaled=relative_heads(student, params, feed.targets),
        )
        scaler = torch.amp.GradScaler(device.type, enabled=params.precision == "fp16")
        return cls(learner, optimizer, scaler, params, moving_average(student, params.ema) if params.ema else None)

    def __call__(
        self, forward: nn.Module, batch: Batch, learning_rate: float, *, shared: bool = False
    ) -> tuple[StepOutput, dict[str, float]]:
        """Take one step along the gradient of a batch; with `shared`, measure each loss's share of it as well.

        `forward` is the learner, or the learner as it is wrapped for several processes.
        """
        shares: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad()
        for part in micro_batches(batch, self.params.accumulate):
            learnt: StepOutput = forward(part)
            shares = learnt.gradient_shares(self.learner.objective.weights) if shared else {}
            loss: Tensor = self.scaler.scale(learnt.loss * (len(part.rows) / len(batch.rows)))
            loss.backward()  # type: ignore[no-untyped-call]
        if self.params.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.student.parameters(), self.params.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return learnt, shares

    def average_weights(self, step: int) -> None:
        """Follow the student with its moving average, where there is one."""
        if self.average is not None:
            self.average.update(self.learner.student, step)

    @property
    def kept(self) -> Student:
        """Return the student to keep: the moving average of the trained one where there is one."""
        student: Student = self.learner.student if self.average is None else self.average.module
        return student

    @property
    def state(self) -> TrainState:
        """Return everything that changes from step to step."""
        modules = {"learner": self.learner} | ({"average": self.average} if self.average else {})
        return TrainState(modules, self.optimizer, self.scaler)


def open_places(student: Student, feed: BatchLoader, *, compiled: bool) -> PlaceFeatures:
    """Return what gives a student's features of every place, for a loss over tokens.

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
    """Return what decays: the backbone, and the layers of the text tower.

    Not its embeddings: most words are rare, and one that is not read would only fade.
    """
    return [student.backbone, *([] if student.text is None else [student.text.trunk.transformer])]


def moving_average(student: Student, decay: float) -> ModelEmaV3:
    """Return a second student that holds the moving average of the first one's weights."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(student, decay=decay, use_warmup=True)
