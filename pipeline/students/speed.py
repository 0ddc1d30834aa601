"""Speed of training and inference on this machine: a few steps at the configured size, on available pixels."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8

from pipeline.data.views import FULL_BOX, ViewParams, view_of
from pipeline.project.memory import measure_peak
from pipeline.students.inference import embed_pixels
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.inputs.targets import Targets
from pipeline.students.run import ArmParams, TrainingRun

FIRST_ROWS = 8
STEPS = 2
"""Timed steps per batch size, after a warm-up; the shortest counts, because other work only ever adds time."""


@dataclass(frozen=True)
class StudentSpeed:
    """Cost of a step: a constant, and a cost per row."""

    step_seconds: float
    row_seconds: float
    look_seconds: float
    """Seconds of the forward pass of one image."""
    fixed_bytes: int
    row_bytes: float
    """Memory per row of a batch."""
    measured_rows: int
    parameters: int

    def step(self, batch: int) -> float:
        """Return the seconds of a step."""
        return self.step_seconds + batch * self.row_seconds


@dataclass(frozen=True)
class RepeatedPixels:
    """A few images in place of many: row i is image i modulo their number."""

    store: PixelStore

    def batch(
        self, rows: Int64[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[np.ndarray, "b s s 3"]:
        """Return the pixels of one view of each row, as the store does."""
        return self.store.batch(rows % len(self.store), boxes, flips, size)


def measure_student(
    student: str, recipe: ArmParams, dim: int, pixels: PixelStore, views: ViewParams, *, seconds: float, device: str
) -> StudentSpeed:
    """Time training steps with batch sizes that double until the time is up, and the forward pass.

    A step of b rows takes c₀ + c₁·b, fitted to the first and the last batch size; memory likewise. Initial weights and
    targets are random; they take the same time.

    Raises:
        UsageError: unknown student, or parameters that do not fit it.
    """
    until, batch_rows = time.monotonic() + seconds, recipe.training.batch
    bench = _Bench(student, recipe, dim, pixels, views, torch.device(device))
    rows = min(FIRST_ROWS, batch_rows)
    first = last = bench.time_steps(rows)
    while rows < batch_rows and time.monotonic() + 2 * last.whole < until:
        rows = min(2 * rows, batch_rows)
        last = bench.time_steps(rows)
    step, row = _line(first.rows, first.seconds, last.rows, last.seconds)
    fixed, each = _line(first.rows, first.peak, last.rows, last.peak)
    return StudentSpeed(step, row, last.look, round(fixed), each, last.rows, last.parameters)


@dataclass(frozen=True)
class _Steps:
    rows: int
    seconds: float
    """Seconds of one step."""
    whole: float
    """Seconds of building the student and of all steps."""
    peak: int
    look: float
    parameters: int


@dataclass(frozen=True)
class _Bench:
    """A student and its inputs for timing."""

    student: str
    recipe: ArmParams
    dim: int
    pixels: PixelStore
    views: ViewParams
    device: torch.device

    def time_steps(self, rows: int) -> _Steps:
        """Time a few steps at a batch size, and one forward pass."""
        begun = time.perf_counter()
        with measure_peak() as peak:
            run = self._build(rows)
            step, times = run.step(), [time.perf_counter()]
            for batch in run.feed.stream(0, STEPS + 1):
                step(batch).item()  # reading the loss waits for the GPU
                times.append(time.perf_counter())
            spent = min(after - before for before, after in itertools.pairwise(times[1:]))
        learner, pixels = run.student.eval(), batch.pixels.cpu().numpy()
        start = time.perf_counter()
        embed_pixels(learner, pixels, rows)
        look = (time.perf_counter() - start) / rows
        count = sum(parameter.numel() for parameter in learner.parameters())
        return _Steps(rows, spent, time.perf_counter() - begun, peak.grown, look, count)

    def _build(self, rows: int) -> TrainingRun:
        training = self.recipe.training
        training = training.model_copy(
            update={"batch": rows, "accumulation_steps": min(training.accumulation_steps, rows)}
        )
        recipe = _at_random(ArmParams(training, self.recipe.loss, self.recipe.student))
        targets = _random_targets(recipe, self.dim, self.pixels, self.views, (STEPS + 1) * rows)
        return TrainingRun.build(self.student, recipe, targets, RepeatedPixels(self.pixels), self.device)


def _at_random(recipe: ArmParams) -> ArmParams:
    """Return the recipe with random initial weights, so that nothing is downloaded."""
    student = recipe.student
    text = student.text and student.text.model_copy(update={"weights": None})
    backbone = student.backbone.model_copy(update={"weights": None})
    return ArmParams(recipe.training, recipe.loss, student.model_copy(update={"backbone": backbone, "text": text}))


def _random_targets(recipe: ArmParams, dim: int, pixels: PixelStore, views: ViewParams, rows: int) -> Targets:
    """Return random targets with one caption and one class per row, and the boxes of their views."""
    draw = np.random.default_rng(0)
    count = views.crops + 1 if recipe.training.max_views is None else min(views.crops + 1, recipe.training.max_views)
    shown_views = [[_view(pixels, views, row % len(pixels), view) for row in range(rows)] for view in range(count)]
    boxes = np.array([[box for box, _ in of_view] for of_view in shown_views], np.float32)
    flips = np.array([[flip for _, flip in of_view] for of_view in shown_views], bool)
    text, loss = recipe.student.text, recipe.loss
    captioned = loss.needs_captions or text is not None

    def normal(*shape: int) -> Float[np.ndarray, "*rows k"]:
        return draw.standard_normal(shape, np.float32)

    return Targets(
        image=normal(count, rows, dim),
        boxes=boxes,
        flips=flips,
        text=normal(rows, dim) if captioned else None,
        offsets=np.arange(rows + 1) if captioned else None,
        tokens=None if text is None else draw.integers(1, 1000, (rows, text.context)).astype(np.int32),
        labels=np.arange(rows) % 10 if loss.needs_labels else None,
        classes=normal(10, dim) if loss.needs_labels else None,
        domains=normal(10, 2, dim) if loss.needs_domains else None,
    )


def _view(pixels: PixelStore, views: ViewParams, row: int, view: int) -> tuple[tuple[float, ...], bool]:
    kept_box = tuple(pixels.kept_box[row].tolist())
    if view == 0 and kept_box != FULL_BOX:
        return kept_box, False
    height, width = (int(side) for side in pixels.shape[row])
    view_box = view_of(views, pixels.keys[row], view, width, height)
    return view_box.box, view_box.flip


def _line(first_x: int, first_y: float, last_x: int, last_y: float) -> tuple[float, float]:
    """Return c₀ and c₁ of y = c₀ + c₁·x through two points, neither below zero."""
    if first_x == last_x:
        return 0.0, last_y / last_x
    slope = max(0.0, (last_y - first_y) / (last_x - first_x))
    fixed = max(0.0, last_y - slope * last_x)
    return fixed, (last_y - fixed) / last_x
