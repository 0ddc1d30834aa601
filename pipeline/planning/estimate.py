"""Estimate seconds, disk and memory of every stage: counts times measured unit costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.planning.present import WorkProgress
from pipeline.planning.workload import ArmWork, SplitWork, Workload
from pipeline.project.stopwatch import TeacherSpeed

METRICS_STARTS, REPORT_STARTS = 4e-4, 0.6
"""Cost of `evaluate` per image besides the forward pass, and of `report`, in units of a process start with torch.

Measured on the sample's 1,800 images and its page, where such a start took 4 s on one core.
"""
KEY_BYTES, CAPTION_BYTES = 32, 64
"""Bytes of a key, and of the hash next to a caption's embedding."""


@dataclass(frozen=True)
class StageEstimate:
    """Estimate of one stage, for one split, target space or arm."""

    stage: str
    name: str
    progress: WorkProgress
    unit: str
    seconds: float | None
    """Seconds of the missing work; None if unknown."""
    disk_bytes: float = 0
    """Bytes of the missing work."""
    memory_bytes: float = 0
    note: str = ""


@dataclass(frozen=True)
class Estimate:
    """Estimates of all stages."""

    stages: tuple[StageEstimate, ...]

    @property
    def seconds(self) -> float:
        """Return the total of the known seconds."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def unknown(self) -> list[StageEstimate]:
        """Return the stages of unknown duration."""
        return [stage for stage in self.stages if stage.seconds is None]

    @property
    def disk_bytes(self) -> float:
        """Return the total of added disk space."""
        return sum(stage.disk_bytes for stage in self.stages)

    @property
    def memory_bytes(self) -> float:
        """Return the largest memory of a stage; stages run one after another."""
        return max((stage.memory_bytes for stage in self.stages if not stage.progress.is_whole), default=0.0)


def estimate(work: Workload) -> Estimate:
    """Estimate every stage, in the order of the pipeline."""
    stages = (
        *(_index(name, split, work) for name, split in work.splits.items()),
        *(_pack(name, split, work) for name, split in work.splits.items()),
        *(_embed(name, split, work) for name, split in work.splits.items()),
        _moments(work),
        *(_whiten(name, progress, work) for name, progress in work.targets.items()),
        *_distill(work),
        *(StageEstimate("relate", name, WorkProgress(), "", None, note="not measured") for name in work.scorers),
        *(_evaluate(arm, work) for arm in work.arms),
        _report(work),
    )
    return Estimate(tuple(map(_free_if_there, stages)))


def _index(name: str, split: SplitWork, work: Workload) -> StageEstimate:
    seconds = work.machine.light_start + split.list_seconds
    return StageEstimate("index", name, split.listed, "", seconds, memory_bytes=work.machine.light_bytes)


def _pack(name: str, split: SplitWork, work: Workload) -> StageEstimate:
    machine, rows = work.machine, split.rows * split.packed.missing
    starts = 3 if machine.workers > 1 else 1  # workers are separate processes: a small pack took three
    seconds = starts * machine.light_start + rows * split.pack_seconds / machine.processes
    memory = machine.light_bytes * (1 + (machine.workers if machine.workers > 1 else 0))
    return StageEstimate("pack", name, split.packed, "images", seconds, rows * split.packed_bytes, memory)


def _embed(name: str, split: SplitWork, work: Workload) -> StageEstimate:
    machine = work.machine
    if machine.teachers is None:
        return StageEstimate("embed", name, split.embedded, "embeddings", None, note="no teacher here yet")
    seconds, disk, memory = machine.heavy_start, 0.0, 0.0
    left = split.embedded.missing * split.rows
    for number, teacher in enumerate(machine.teachers):
        passes = 1 + (split.dense and number == 0)
        texts = split.captions * passes * teacher.text_seconds
        seconds += teacher.load_seconds + split.prompts * teacher.text_seconds + left * texts
        seconds += left * _image_seconds(split, split.views + passes - 1, teacher, len(machine.teachers))
        disk += left * (split.views + passes - 1) * (4 * teacher.dim + 17 + KEY_BYTES)
        if teacher.text_seconds:
            disk += left * split.captions * passes * (4 * teacher.dim + 4 * teacher.context_length + CAPTION_BYTES)
        memory += teacher.memory_bytes * max(1.0, machine.teacher_batch / teacher.measured_rows)
    return StageEstimate("embed", name, split.embedded, "embeddings", seconds, disk, machine.heavy_bytes + memory)


def _image_seconds(split: SplitWork, passes: int, teacher: TeacherSpeed, teachers: int) -> float:
    """Return the seconds per image for one teacher: a GPU overlaps decoding with its passes, a CPU does not."""
    look, prepare = passes * teacher.image_seconds, split.prepare_seconds / teachers
    return look + prepare if teacher.device == "cpu" else max(look, prepare)


def _moments(work: Workload) -> StageEstimate:
    machine, train = work.machine, work.splits["train"]
    seconds = machine.middle_start + train.rows * machine.moments_seconds / machine.cores
    square = 8 * work.dim**2
    memory = machine.light_bytes + 6 * square * machine.cores
    return StageEstimate("moments", "", work.moments, "", seconds, 6 * work.pre_norms * square, memory)


def _whiten(name: str, progress: WorkProgress, work: Workload) -> StageEstimate:
    machine, square = work.machine, 8 * work.dim**2
    seconds = machine.middle_start + machine.whiten_seconds[name]
    return StageEstimate("whiten", name, progress, "", seconds, 4 * square, machine.light_bytes + 12 * square)


def _distill(work: Workload) -> Iterator[StageEstimate]:
    """Estimate each arm; the first trained one decodes the images for all."""
    decoded = False
    for arm in work.arms:
        speed, batch, train = work.machine.students[arm.student], work.batches[arm.student], work.splits["train"]
        steps = work.epochs * max(1, train.rows // batch)
        validation_rows = sum(work.splits[name].rows for name in ("val", work.watched) if name)
        looks = work.evaluations * validation_rows * speed.look_seconds
        missing = arm.trained.missing
        seconds = work.machine.heavy_start + missing * (steps * speed.step(min(batch, train.rows)) + looks)
        disk = 4.0 * speed.parameters
        if work.streamed:
            again = missing * steps * min(batch, train.rows) * train.pixel_seconds
            seconds += again if work.machine.device == "cpu" else max(0.0, again - seconds)
        if missing and not decoded:
            names = [name for name in ("" if work.streamed else "train", "val", work.watched) if name]
            seconds, disk = seconds + _pixel_seconds(names, work), disk + _pixel_bytes(names, work)
            decoded = True
        targets = 4 * work.dim * train.rows * (1 + train.captions)
        memory = work.machine.heavy_bytes + speed.fixed_bytes + speed.row_bytes * batch + targets
        progress = WorkProgress(round(steps * (1 - missing)), steps)
        yield StageEstimate("distill", f"{arm.student}-{arm.target}", progress, "steps", seconds, disk, memory)


def _evaluate(arm: ArmWork, work: Workload) -> StageEstimate:
    speed, rows = work.machine.students[arm.student], sum(work.splits[name].rows for name in work.scored)
    seconds = work.machine.heavy_start + rows * (speed.look_seconds + METRICS_STARTS * work.machine.heavy_start)
    first = arm == next((each for each in work.arms if not each.evaluated.is_whole), None)
    others = [name for name in work.scored if name not in ("val", work.watched)]
    if first:
        seconds += _pixel_seconds(others, work)
    disk = _pixel_bytes(others, work) if first else 0
    memory = work.machine.heavy_bytes + 16 * work.dim * rows
    return StageEstimate("evaluate", f"{arm.student}-{arm.target}", arm.evaluated, "", seconds, disk, memory)


def _report(work: Workload) -> StageEstimate:
    seconds = work.machine.middle_start + REPORT_STARTS * work.machine.heavy_start
    return StageEstimate("report", "", work.report, "", seconds, 5e6, 2 * work.machine.light_bytes)


def _pixel_seconds(names: Sequence[str], work: Workload) -> float:
    splits = [work.splits[name] for name in dict.fromkeys(names)]
    return sum(split.pixels.missing * split.rows * split.pixel_seconds for split in splits)


def _pixel_bytes(names: Sequence[str], work: Workload) -> float:
    splits = [work.splits[name] for name in dict.fromkeys(names)]
    return sum(split.pixels.missing * split.rows * split.pixel_bytes for split in splits)


def _free_if_there(stage: StageEstimate) -> StageEstimate:
    """Return a finished stage at zero cost, because DVC skips it."""
    return StageEstimate(stage.stage, stage.name, stage.progress, stage.unit, 0.0) if stage.progress.is_whole else stage
