"""Measurements of `plan` on this machine: a few samples of each split are packed, embedded, decoded and trained on."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.packing.jobs import PackParams
from pipeline.data.views import ViewParams
from pipeline.planning.contents import SplitContents, SplitSample, pack_sample
from pipeline.planning.machine import STARTS, decode_sample, measure_fits, measure_start, view_facts
from pipeline.planning.workload import Machine
from pipeline.project.device import choose_device
from pipeline.project.errors import UsageError
from pipeline.project.project import Project
from pipeline.project.stopwatch import TeacherSpeed
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.run import read_recipe
from pipeline.students.speed import StudentSpeed, measure_student
from pipeline.students.training.params import TrainingParams
from pipeline.teacher.params import HUB, TeacherParams
from pipeline.teacher.speed import load_local_teacher, measure_preprocessing, measure_teacher
from pipeline.teacher.token_shards import TokenParams
from pipeline.whitening.spaces import TargetParams

TEACHER_SECONDS, STUDENTS_SECONDS = 5.0, 16.0
"""Time limits for the forward passes of each tower, and for the steps of all students together."""
DIM = 512
"""Assumed embedding dimension of a teacher that cannot be loaded."""


@dataclass(frozen=True)
class PlanParams:
    """The sections of the parameters that decide the amount of work."""

    pack: PackParams
    teachers: Mapping[str, TeacherParams]
    views: ViewParams
    tokens: TokenParams | None
    targets: Mapping[str, TargetParams]
    training: TrainingParams

    @classmethod
    def read(cls, project: Project, teachers: Mapping[str, TeacherParams]) -> PlanParams:
        """Read them from a project; raises UsageError."""
        tokens = project.get("embed.tokens", default={}) or None
        return cls(
            project.section("pack", PackParams, default={}),
            teachers,
            project.section("embed.views", ViewParams, default={}),
            project.section("embed.tokens", TokenParams) if tokens else None,
            {name: project.section(f"whiten.{name}", TargetParams) for name in project.name_list("whiten.targets")},
            project.section("distill.training", TrainingParams, default={}),
        )

    def views_of(self, split: str) -> ViewParams:
        """Return the views that the teacher embeds: crops only for training images."""
        return self.views if split == "train" else self.views.model_copy(update={"crops": 0})


@dataclass(frozen=True)
class MeasuredTeachers:
    """Speed of each teacher; facts of those with their own weights; seconds for each split's images by all teachers."""

    speeds: tuple[TeacherSpeed, ...] | None
    facts: Mapping[str, dict[str, Any] | None]
    prepare: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasuredPixels:
    """Seconds and bytes of decoding one training image."""

    seconds: float
    row_bytes: float


@dataclass(frozen=True)
class Measurements:
    """All measurements."""

    samples: Mapping[str, SplitSample]
    teachers: MeasuredTeachers
    pixels: Mapping[str, MeasuredPixels]
    machine: Machine
    dim: int


def measure(project: Project, params: PlanParams, contents: Mapping[str, SplitContents]) -> Measurements:
    """Run a few samples of each split through every stage, in a temporary folder.

    Raises:
        UsageError: a teacher or student that cannot be built.
        PipelineError: a source of which nothing can be used.
    """
    with tempfile.TemporaryDirectory(prefix="wclip-plan-") as folder:
        samples = {
            name: _sample(split_contents, params.pack, Path(folder) / name) for name, split_contents in contents.items()
        }
        teachers = _measure_teachers(params, samples, project)
        dim = teachers.speeds[0].dim if teachers.speeds else DIM
        decoded = {name: _decode(sample, name, params, Path(folder), project) for name, sample in samples.items()}
        students = _measure_students(project, params, decoded["train"][0], dim)
        pixels = {name: MeasuredPixels(each, store.nbytes / len(store)) for name, (store, each) in decoded.items()}
    captions = len(samples["train"].texts) / samples["train"].packed.rows
    return Measurements(
        samples, teachers, pixels, _measure_machine(project, params, teachers.speeds, dim, captions, students), dim
    )


def _measure_machine(  # noqa: PLR0917  the parts of one record
    project: Project,
    params: PlanParams,
    teachers: tuple[TeacherSpeed, ...] | None,
    dim: int,
    captions: float,
    students: Mapping[str, StudentSpeed],
) -> Machine:
    say("starts, moments and target spaces")
    light, middle, heavy = (measure_start(*STARTS[kind]) for kind in ("light", "middle", "heavy"))
    fits, runtime = measure_fits(params.targets, dim, params.views.crops + 1, captions), project.runtime
    return Machine(
        choose_device(runtime.device).type,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        runtime.workers,
        light.seconds,
        middle.seconds,
        heavy.seconds,
        light.resident_bytes,
        heavy.resident_bytes,
        teachers,
        runtime.requested_teacher_batch or runtime.batch,
        fits.moments * len(project.get("moments.pre_norm", default=["l2"])),
        fits.whiten,
        students,
    )


def say(what: str) -> None:
    """Print to standard error what is being measured."""
    print(f"plan: measuring {what}", file=sys.stderr, flush=True)


def _sample(contents: SplitContents, params: PackParams, folder: Path) -> SplitSample:
    say(f"{contents.split}: {contents.listed} samples")
    folder.mkdir()
    return pack_sample(contents, params, folder)


def _decode(
    sample: SplitSample, split: str, params: PlanParams, folder: Path, project: Project
) -> tuple[PixelStore, float]:
    view_list = view_facts(params.views_of(split), params.training.max_views)
    size, workers = params.training.image_size, project.runtime.workers
    return decode_sample(sample.packed, size, view_list, folder / f"{split}-pixels", workers)


def _measure_teachers(params: PlanParams, samples: Mapping[str, SplitSample], project: Project) -> MeasuredTeachers:
    """Time each teacher with the weights at hand; a hub model that was never downloaded cannot be timed."""
    speeds: dict[str, TeacherSpeed] = {}
    facts: dict[str, dict[str, Any] | None] = {}
    prepare, notes = dict.fromkeys(samples, 0.0), []
    for name, teacher in distinct_teachers(params.teachers).items():
        say(f"the teacher, {teacher.name}")
        try:
            speeds[name], facts[name], spent = _measure_teacher(teacher, params, samples, project)
        except UsageError as error:
            if not teacher.model.startswith(HUB):
                raise
            return MeasuredTeachers(None, {name: None}, prepare, (f"the teacher cannot be measured: {error}",))
        prepare = {split: seconds + spent[split] for split, seconds in prepare.items()}
        if facts[name] is None:
            notes.append(f"{teacher.name}: measured at random weights; the published are fetched by `embed`")
    return MeasuredTeachers(tuple(speeds.values()), facts, prepare, tuple(notes))


def distinct_teachers(teachers: Mapping[str, TeacherParams]) -> dict[str, TeacherParams]:
    """Return the teachers without duplicates under another name, which `embed` runs only once."""
    distinct: dict[str, TeacherParams] = {}
    for name, teacher in teachers.items():
        if teacher not in distinct.values():
            distinct[name] = teacher
    return distinct


def _measure_teacher(
    params: TeacherParams, plan: PlanParams, samples: Mapping[str, SplitSample], project: Project
) -> tuple[TeacherSpeed, dict[str, Any] | None, dict[str, float]]:
    """Return a teacher's speed, its facts if its own weights were loaded, and the seconds for each split's images."""
    start, runtime = time.perf_counter(), project.runtime
    teacher, own = load_local_teacher(params, runtime.device)
    spent, batch = time.perf_counter() - start, runtime.requested_teacher_batch or runtime.batch
    seconds = TEACHER_SECONDS / len(plan.teachers)
    speed = measure_teacher(teacher, spent, samples["train"].texts, batch, seconds)
    prepare = {
        name: measure_preprocessing(teacher, sample.packed, plan.views_of(name), runtime.workers)
        for name, sample in samples.items()
    }
    facts = teacher.identity.facts() if own else None
    del teacher
    gc.collect()
    return speed, facts, prepare


def _measure_students(project: Project, params: PlanParams, pixels: PixelStore, dim: int) -> dict[str, StudentSpeed]:
    names, device = project.name_list("distill.students"), choose_device(project.runtime.device).type
    speeds = {}
    for name in names:
        say(f"a step of {name}")
        recipe, share = read_recipe(project, name), STUDENTS_SECONDS / len(names)
        speeds[name] = measure_student(name, recipe, dim, pixels, params.views, seconds=share, device=device)
    return speeds
