"""The training loop: steps, periodic validation, and resuming from any step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.project.errors import DivergedError
from pipeline.project.progress import PhaseTimer, progress
from pipeline.students.inputs.loader import BatchLoader
from pipeline.students.losses.objective import Objective
from pipeline.students.model import Student
from pipeline.students.training.optimizer import OptimizerStep, learning_rate_at
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.state import load_state, save_state
from pipeline.students.training.validation import HistoryRow

SEED_STRIDE = 1 << 32
"""Separates the random streams of the steps of different seeds."""
LOG_EVERY_STEPS = 20
"""Steps between two reads of the loss for the progress line: on a GPU each read waits for all queued work."""


@dataclass(frozen=True)
class ResumeConfig:
    """Path and interval of the saved training state."""

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
    """Train a student in place, and return the student to keep and its history.

    The saved state after step t, with batches and random numbers as functions of the step and the learning rate in
    closed form, decides step t + 1. A killed and resumed run therefore ends in the same bytes on one machine.

    Raises:
        DivergedError: the loss is NaN or infinite.
    """
    ranks, steps = feed.ranks, params.count_steps(feed.epoch_steps)
    update = OptimizerStep.build(student, objective, feed, params)
    facts = load_state(resume.path, update.state)
    together = ranks.wrap_ddp(update.learner)
    done, history = (facts["step"], facts["history"]) if facts else (0, [])
    looks = {round(steps * (i + 1) / params.num_validations) for i in range(params.num_validations)}
    saved, note, clock = time.monotonic(), "", PhaseTimer()

    with progress(f"distill {student.name}", steps - done, "steps") as advance:
        for batch in clock.iterate(feed.stream(done, steps)):
            torch.manual_seed(params.seed * SEED_STRIDE + done)
            learning_rate = learning_rate_at(params.schedule, student.params.learning_rate, done, steps, params.warmup)
            output, shares = update(together, batch, learning_rate, shared=done + 1 in looks)
            done += 1
            update.average_weights(done)
            if done % LOG_EVERY_STEPS == 0 or done in looks:
                loss = check_finite_loss(output.loss.item(), done)
                note = f"loss {loss:.3f}, {clock.summary()}"
            if done in looks:
                row = {"step": done, "epoch": done / feed.epoch_steps, "learning_rate": learning_rate, "loss": loss}
                shares = {name: check_finite_loss(value, done) for name, value in shares.items()}
                history.append({**row, **shares, **(look(update.kept) if ranks.is_main else {})})
                show(history)
                update.learner.train()
                if ranks.broadcast(ranks.is_main and should_stop_early(history, params.patience), feed.device):
                    break
            if ranks.is_main and time.monotonic() - saved >= resume.every_seconds and done < steps:
                save_state(resume.path, update.state, {"step": done, "history": history})
                saved = time.monotonic()
            advance(1, note)
    return update.kept.eval(), history


def check_finite_loss(loss: float, step: int) -> float:
    """Return the loss if it is finite.

    Raises:
        DivergedError: it is not.
    """
    if loss - loss != 0:
        raise DivergedError(f"distill: the loss is {loss} at step {step}. Lower learning_rate or set gradient_clip.")
    return loss


def should_stop_early(history: list[HistoryRow], patience: int | None) -> bool:
    """Return whether val_nmse has not decreased for `patience` validations."""
    if patience is None or len(history) <= patience:
        return False
    best = min(row["val_nmse"] for row in history[:-patience])
    return min(row["val_nmse"] for row in history[-patience:]) >= best
