"""The training loop: one batch after another, looked at now and then, stopped and resumed at any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.project.errors import DivergedError
from pipeline.project.progress import PhaseTimer, progress
from pipeline.students.inputs.loader import Batch, BatchLoader
from pipeline.students.inputs.targets import target_stats
from pipeline.students.losses.objective import Objective
from pipeline.students.losses.scaling import relative_heads
from pipeline.students.model import Student, normalize_pixels
from pipeline.students.towers import init_head
from pipeline.students.training.optimizer import build_optimizer, learning_rate_at
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.state import TrainState, load_state, save_state
from pipeline.students.training.step import DistillationStep
from pipeline.students.training.validation import HistoryRow

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

SEED_STRIDE = 1 << 32
"""Steps of one seed never share their randomness with steps of another."""
LOG_EVERY_STEPS = 20
"""Steps between two looks at the loss for the progress line: on a GPU each look waits for all work in flight."""


@dataclass(frozen=True)
class ResumeConfig:
    """Where an interrupted run is kept, and how often."""

    path: Path
    every_seconds: float = 30.0


def train(
    student: Student,
    objective: Objective,
    feed: BatchLoader,
    *,
    look: Callable[[Student], HistoryRow],
    params: TrainingParams,
    resume: ResumeConfig,
    show: Callable[[list[HistoryRow]], None] = lambda _: None,
) -> tuple[Student, list[HistoryRow]]:
    """Train a student, in place, and return the one to keep with its history.

    Everything that decides step t + 1 is in the state after step t: batches and randomness are functions of
    the step, the rate is a closed form of it. So a killed run, resumed, ends in the same bytes on one machine.

    Raises:
        DivergedError: the loss is no number any more.
    """
    ranks = feed.ranks
    student.backbone, student.norms = ranks.convert_batchnorm(student.backbone, feed.device)
    learner = DistillationStep(student, objective, params.precision, compiled=params.compile, ranks=ranks)
    learner.to(feed.device).to(memory_format=torch.channels_last).train()
    init_heads(student, feed)
    peak, steps = student.params.learning_rate, params.epochs * feed.epoch_steps
    optimizer = build_optimizer(
        params.optimizer,
        decayed_modules(student),
        (student, objective),
        peak,
        params.weight_decay,
        scaled=relative_heads(student, params, feed.targets),
    )
    average = moving_average(student, params.ema) if params.ema else None
    kept = student if average is None else average.module
    scaler = torch.amp.GradScaler(feed.device.type, enabled=params.precision == "fp16")
    training = TrainState({"learner": learner} | ({"average": average} if average else {}), optimizer, scaler)
    facts = load_state(resume.path, training)
    together = ranks.wrap_ddp(learner)
    done, history = (facts["step"], facts["history"]) if facts else (0, [])
    looks = {round(steps * (i + 1) / params.evaluations) for i in range(params.evaluations)}
    saved, note, clock = time.monotonic(), "", PhaseTimer()

    with progress(f"distill {student.name}", steps - done, "steps") as advance:
        for batch in clock.iterate(feed.stream(done, steps)):
            torch.manual_seed(params.seed * SEED_STRIDE + done)
            learning_rate = learning_rate_at(params.schedule, peak, done, steps, params.warmup)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group.get("lr_scale", 1.0)
            optimizer.zero_grad()
            for part in micro_batches(batch, params.accumulate):
                learnt = together(part)
                shares = learnt.gradient_shares(objective.params.weights) if done + 1 in looks else {}
                scaler.scale(learnt.loss * (len(part.rows) / len(batch.rows))).backward()
            if params.gradient_clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(student.parameters(), params.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            done += 1
            if average is not None:
                average.update(student, done)
            if done % LOG_EVERY_STEPS == 0 or done in looks:
                loss = check_finite_loss(learnt.loss.item(), done)
                note = f"loss {loss:.3f}, {clock.summary()}"
            if done in looks:
                seen = {"step": done, "epoch": done / feed.epoch_steps, "learning_rate": learning_rate, "loss": loss}
                shares = {name: check_finite_loss(value, done) for name, value in shares.items()}
                history.append({**seen, **shares, **(look(kept) if ranks.is_main else {})})
                show(history)
                learner.train()
                if ranks.broadcast(ranks.is_main and should_stop_early(history, params.patience), feed.device):
                    break
            if ranks.is_main and time.monotonic() - saved >= resume.every_seconds and done < steps:
                save_state(resume.path, training, {"step": done, "history": history})
                saved = time.monotonic()
            advance(1, note)
    return kept.eval(), history


@torch.no_grad()
def init_heads(student: Student, feed: BatchLoader) -> None:
    """Give the heads' first outputs the targets' mean and variance, whatever the space.

    The features are those of the first batch with its own batch statistics, as in the first step.
    """
    batch, targets, gathered = feed.batch_at(0), feed.targets, feed.ranks.all_gather
    buffers = {name: buffer.clone() for name, buffer in student.backbone.named_buffers()}
    _init_head_to(
        student.head, gathered(student.backbone(normalize_pixels(batch.pixels, *student.mean_std))), targets.image
    )
    for name, buffer in student.backbone.named_buffers():
        buffer.copy_(buffers[name])
    if student.text is not None and batch.tokens is not None and targets.text is not None:
        _init_head_to(student.text.head, gathered(student.text.features(batch.tokens)), targets.text)


def _init_head_to(head: nn.Module, features: Float[Tensor, "b f"], targets: Float[np.ndarray, "*rows k"]) -> None:
    seen = target_stats(targets)
    init_head(head, features, torch.from_numpy(seen.mean).to(features), seen.variance)


def decayed_modules(student: Student) -> list[nn.Module]:
    """Return what decays: the backbone, and the layers of the text tower.

    Not its embeddings: most words are rare, and one that is not read would only fade.
    """
    return [student.backbone, *([] if student.text is None else [student.text.trunk.transformer])]


def moving_average(student: Student, decay: float) -> ModelEmaV3:
    """Return a second student that holds the moving average of the first one's weights."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(student, decay=decay, use_warmup=True)


def micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield a batch in so many parts of nearly equal size."""
    size = -(-len(batch.rows) // count)
    for start in range(0, len(batch.rows), size):
        yield batch.part(slice(start, start + size))


def check_finite_loss(loss: float, step: int) -> float:
    """Return a loss that is a number.

    Raises:
        DivergedError: it is not.
    """
    if loss - loss != 0:
        raise DivergedError(f"distill: the loss is {loss} at step {step}. Lower learning_rate or set gradient_clip.")
    return loss


def should_stop_early(history: list[HistoryRow], patience: int | None) -> bool:
    """Return whether val_nmse has not fallen for `patience` looks."""
    if patience is None or len(history) <= patience:
        return False
    best = min(row["val_nmse"] for row in history[:-patience])
    return min(row["val_nmse"] for row in history[-patience:]) >= best
