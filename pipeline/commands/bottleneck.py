"""Time the parts of a training or embedding step on this machine, and advise what to change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.data.packing.packed import open_packed
from pipeline.data.prefetch import prefetch_map
from pipeline.data.views import ViewParams
from pipeline.project.device import choose_device
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.project import Project
from pipeline.students.arm import open_arm
from pipeline.students.inputs.loader import Batch, BatchLoader
from pipeline.students.run import ArmParams, TrainingRun, load_run_targets, read_recipe
from pipeline.teacher.params import TeacherParams, first_teacher

BATCHES = 6
"""Number of timed batches; an additional first one is a warm-up."""
HIDDEN = 1.1
"""If the whole takes at most this multiple of its longer part, the shorter part is hidden behind it."""


@dataclass(frozen=True)
class StageTiming:
    """Milliseconds per image of one stage: data alone, computation alone, and both together."""

    what: str
    data: float
    compute: float
    together: float
    data_advice: str
    """Advice if data loading is the bottleneck."""
    compute_advice: str

    @property
    def line(self) -> str:
        """Return timings, bottleneck and advice in one line."""
        slow, advice = ("data", self.data_advice) if self.data > self.compute else ("computing", self.compute_advice)
        extra = self.together / max(self.data, self.compute)
        beside = "hides the rest" if extra < HIDDEN else f"only partly hides the rest: {100 * (extra - 1):.0f} % more"
        return (
            f"{self.what}: {self.together:.2f} ms an image (data {self.data:.2f}, computing {self.compute:.2f}): "
            f"{slow} is the bottleneck and {beside}. To go faster: {advice}."
        )


def print_bottlenecks(project: Project, arms: Sequence[tuple[str, str]]) -> None:
    """Print the timings of `embed` on the training split, and of the training of each arm."""
    layout, runtime = project.layout, project.runtime
    teacher = first_teacher(project)
    views = project.section("embed.views", ViewParams, default={})
    print(embed_pace("train", teacher, views, layout, runtime).line, flush=True)
    for student, target in arms:
        recipe = read_recipe(project, student)
        print(distill_pace(student, target, recipe, layout, runtime).line, flush=True)


def distill_pace(student: str, target: str, recipe: ArmParams, layout: Layout, runtime: Runtime) -> StageTiming:
    """Time the steps of an arm: batches alone, steps on one fixed batch, and steps as in `distill`.

    Raises:
        UsageError, CacheError: as `distill` does.
    """
    feed, step = _opened(student, target, recipe, layout, runtime)
    rows, batches = feed.batch, range(1, BATCHES + 1)
    first = feed.batch_at(0)
    step(first)
    data = _milliseconds(lambda: [feed.batch_at(number) for number in batches]) / (rows * BATCHES)
    compute = _milliseconds(lambda: [step(first) for _ in batches]) / (rows * BATCHES)
    together = _milliseconds(lambda: [step(batch) for batch in feed.stream(1, BATCHES + 1)]) / (rows * BATCHES)
    crops = feed.targets.image.shape[0] > 1
    return StageTiming(
        f"distill {student}-{target} on {feed.device.type}",
        data,
        compute,
        together,
        f"{_more_workers(runtime)}, or cache the center view alone, whose batches are one gather"
        if crops
        else "keep data/.store on a faster disk, or in memory",
        "a smaller distill.training.image_size, a smaller student, or a GPU"
        if feed.device.type == "cpu"
        else "distill.training.precision: bf16, compile: true, or a larger batch",
    )


def embed_pace(split: str, teacher: TeacherParams, views: ViewParams, layout: Layout, runtime: Runtime) -> StageTiming:
    """Time `embed` on the first images of a packed split, with the center view only.

    Raises:
        UsageError, CacheError: as `embed` does.
    """
    from pipeline.teacher.model import load_teacher, to_numpy  # imported only if the teacher is measured
    from pipeline.teacher.shards import preprocess

    loaded, packed = load_teacher(teacher, runtime.device), open_packed(layout.packed(split))
    batch = min(runtime.requested_teacher_batch or runtime.batch, 32)
    samples = list(islice(packed.read(0, "size"), 2 * batch))

    def pixels() -> Iterator[np.ndarray]:
        ready = prefetch_map(lambda s: preprocess(s, [0], views, loaded.identity), samples, runtime.workers, batch)
        return (each.pixels[0] for each in ready)

    def look(images: Iterator[np.ndarray]) -> None:
        while rows := list(islice(images, batch)):
            to_numpy(loaded.forward_images(np.stack(rows)))

    batches = list(pixels())
    look(iter(batches[:batch]))
    data, compute, together = (
        _milliseconds(work) / len(samples)
        for work in (lambda: list(pixels()), lambda: look(iter(batches)), lambda: look(pixels()))
    )
    return StageTiming(
        f"embed {split} on {loaded.device.type}",
        data,
        compute,
        together,
        f"{_more_workers(runtime)}, or pack.resize: images of twice the teacher's size decode several times faster",
        "runtime.teacher_batch: auto for a new store, one process a GPU (embed --rank --world), or a GPU"
        if loaded.device.type == "cpu"
        else "one process a GPU (embed --rank --world)",
    )


def _opened(
    student: str, target: str, recipe: ArmParams, layout: Layout, runtime: Runtime
) -> tuple[BatchLoader, Callable[[Batch], None]]:
    """Return an arm's batches and training step, as in `distill`."""
    arm, _ = open_arm(student, target, recipe, layout, runtime).choose_pixels(layout)
    targets = load_run_targets(arm.splits["train"], arm.space, arm.recipe)
    pixels = arm.training_pixels(len(targets.image), layout, runtime)
    run = TrainingRun.build(
        student, arm.recipe, targets, pixels, choose_device(runtime.device), start_text=arm.start_text
    )
    step = run.step()

    def take(batch: Batch) -> None:
        step(batch).item()  # reading the loss waits for the GPU

    return run.feed, take


def _more_workers(runtime: Runtime) -> str:
    return f"runtime.workers above {runtime.workers} ({os.cpu_count() or 1} cores here)"


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)
