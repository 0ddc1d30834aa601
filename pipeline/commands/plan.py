"""Estimate the stages before they start: remaining work, finished work, images, disk, memory, hours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from cache.manifest import OTHERS
from pipeline.commands.plan_measurements import Measurements, PlanParams, distinct_teachers, measure
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.sources.registry import parse_source
from pipeline.planning.contents import SplitContents, count_split
from pipeline.planning.estimate import estimate
from pipeline.planning.fitting import Limits, suggestions
from pipeline.planning.machine import view_facts
from pipeline.planning.present import (
    NOTHING,
    WorkProgress,
    find_evaluation,
    find_listing,
    find_moments,
    find_packed,
    find_pixels,
    find_space,
    find_student,
    has_tokens,
    recorded_teacher,
)
from pipeline.planning.table import ProjectPlan
from pipeline.planning.workload import ArmWork, SplitWork, Workload
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.memory import available_bytes
from pipeline.project.project import Project
from pipeline.students.backbones import timm_name
from pipeline.students.run import read_recipe
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.speed import count_embedded

DEFAULT_BUDGET = 12 * 3600.0
"""In seconds: 12 hours."""
REFERENCE_BYTES = 400.0
"""Bytes of a sample that is packed by reference: its description, and the location of its image."""


def plan(project: Project, teachers: Mapping[str, TeacherParams], budget: float = DEFAULT_BUDGET) -> ProjectPlan:
    """Count the data, time a few batches, and estimate every stage; writes nothing below the root.

    Raises:
        UsageError: inconsistent parameters, or a missing source.
        PipelineError: a source without any usable sample.
    """
    params = PlanParams.read(project, teachers)
    for student in project.name_list("distill.students"):  # report a mistyped name before measuring anything
        timm_name(student, read_recipe(project, student).student.backbone)
    contents, seconds = _count(project)
    measured = measure(project, params, contents)
    splits = {name: _split_work(each, seconds[name], params, measured, project) for name, each in contents.items()}
    work = _workload(project, params, splits, measured)
    free = shutil.disk_usage(_existing(project.layout.root)).free
    limits, estimated = Limits(budget, free, available_bytes()), estimate(work)
    suggested = () if limits.allow(estimated) else suggestions(work, limits)
    return ProjectPlan(work, estimated, limits, suggested, measured.teachers.notes)


def _count(project: Project) -> tuple[dict[str, SplitContents], dict[str, float]]:
    contents, seconds, names = {}, {}, project.name_list("index.splits")
    watched = project.get("distill.training", default={}).get("zero_shot_set")
    if missing := [name for name in ("train", "val", watched) if name and name not in names]:
        raise UsageError(f"params: 'index.splits': no split '{missing[0]}', only {', '.join(names)}")
    for name in names:
        start = time.perf_counter()
        contents[name] = count_split(name, parse_source(project.get(f"index.{name}"), f"index.{name}"))
        seconds[name] = time.perf_counter() - start
    return contents, seconds


def _split_work(
    contents: SplitContents, seconds: float, params: PlanParams, measured: Measurements, project: Project
) -> SplitWork:
    name, layout, sample = contents.split, project.layout, measured.samples[contents.split]
    rows = round(contents.rows(params.pack.limit) * sample.usable)
    views, classes = params.views_of(name), contents.listing.classes
    dense = bool(params.tokens and name in params.tokens.splits)
    own = 0.0 if classes else len(sample.texts) / sample.packed.rows
    kinds = (1 if own else 0) + sample.has_foils + len(contents.source.caption_files)
    progress, packed = find_packed(contents, params.pack, layout)
    view_list, pixels = view_facts(views, params.training.max_views), measured.pixels[name]
    referred = params.pack.mode == "reference"
    return SplitWork(
        rows=rows,
        captions=own + contents.further_captions,
        prompts=len(classes) * len(contents.listing.templates),
        views=views.crops + 1,
        dense=dense,
        listed=find_listing(contents, layout),
        packed=progress,
        embedded=_embedded(name, rows, kinds, packed, params, measured, layout),
        pixels=find_pixels(packed, params.training.image_size, view_list, layout) if packed else NOTHING,
        list_seconds=seconds,
        pack_seconds=sample.seconds,
        packed_bytes=REFERENCE_BYTES if referred else sample.row_bytes,
        prepare_seconds=measured.teachers.prepare[name],
        pixel_seconds=pixels.seconds,
        pixel_bytes=pixels.row_bytes,
    )


def _embedded(  # noqa: PLR0917  what decides the parts of a split
    split: str,
    rows: int,
    kinds: int,
    packed: PackedSplit | None,
    params: PlanParams,
    measured: Measurements,
    layout: Layout,
) -> WorkProgress:
    """Return the state of a split's embeddings: views, captions and foils of each teacher, the first one's tokens."""
    dense, views = params.tokens is not None and split in params.tokens.splits, params.views_of(split)
    done = total = 0
    for number, (name, teacher) in enumerate(distinct_teachers(params.teachers).items()):
        reads = kinds * (not teacher.is_image_only)
        total += rows * (views.crops + 1 + reads + (1 + reads) * (dense and number == 0))
        folder = layout.embeddings(split) / OTHERS / name if number else layout.embeddings(split)
        facts = measured.teachers.facts.get(name) or recorded_teacher(folder, teacher.name, teacher.precision)
        done += count_embedded(packed, facts, views, layout.store) if packed and facts else 0
        if dense and number == 0 and has_tokens(folder):
            done += rows * (1 + reads)
    return WorkProgress(min(done, total), total)


def _workload(
    project: Project, params: PlanParams, splits: Mapping[str, SplitWork], measured: Measurements
) -> Workload:
    pre_norm, captions = project.get("moments.pre_norm", default=["l2"]), project.get("moments.captions", default="all")
    layout, machine, training = project.layout, measured.machine, params.training
    moments = find_moments(pre_norm, captions, layout) if splits["train"].embedded.is_whole else None
    targets = {
        name: find_space(name, section, moments, layout) if moments else NOTHING
        for name, section in params.targets.items()
    }
    arms = [_arm(project, *arm, targets) for arm in project.arms]
    whole = bool(arms) and all(arm.evaluated.is_whole for arm in arms)
    return Workload(
        splits=splits,
        dim=measured.dim,
        pre_norms=len(pre_norm),
        moments=WorkProgress(int(moments is not None)),
        targets=targets,
        arms=arms,
        batches=dict.fromkeys(machine.students, training.batch),
        epochs=training.epochs,
        image_size=training.image_size,
        evaluations=training.num_validations,
        watched=training.zero_shot_set,
        streamed=_streamed(params, splits["train"], layout),
        scored=("val", *project.zero_shot_splits),
        scorers=tuple(project.get("relate.scorers", default=[])),
        report=WorkProgress(int(whole and layout.report.exists())),
        machine=machine,
    )


def _streamed(params: PlanParams, train: SplitWork, layout: Layout) -> bool:
    """Return whether training images will be decoded at each use; `auto` stores them if a tenth of the disk is left."""
    if params.training.pixels != "auto" or train.pixels.is_whole:
        return params.training.pixels == "streamed"
    return train.rows * train.pixel_bytes > 0.9 * shutil.disk_usage(_existing(layout.root)).free


def _arm(project: Project, student: str, target: str, targets: Mapping[str, WorkProgress]) -> ArmWork:
    if not targets.get(target, NOTHING).is_whole:
        return ArmWork(student, target)
    layout = project.layout
    trained, name = find_student(student, target, read_recipe(project, student), layout, project.runtime)
    section = project.get("evaluate", default={})
    return ArmWork(student, target, trained, find_evaluation(student, target, name, layout, section))


def _existing(path: Path) -> Path:
    """Return the path, or its nearest existing parent."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
