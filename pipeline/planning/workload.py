"""Amount of work, and its unit costs on this machine: the inputs of an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.planning.present import NOTHING, WorkProgress
from pipeline.project.stopwatch import TeacherSpeed
from pipeline.students.speed import StudentSpeed


@dataclass(frozen=True)
class SplitWork:
    """One split: its samples, and the seconds per sample in every stage."""

    rows: int
    captions: float
    """Number of texts per sample for the teacher."""
    prompts: int
    views: int
    dense: bool
    """Whether the first teacher's tokens are cached, which needs another pass over images and texts."""
    listed: WorkProgress
    packed: WorkProgress
    embedded: WorkProgress
    pixels: WorkProgress
    list_seconds: float
    pack_seconds: float
    """Seconds per sample in one process."""
    packed_bytes: float
    prepare_seconds: float
    """Seconds to decode one sample and make its views, for each teacher, by all workers together."""
    pixel_seconds: float
    """Seconds to decode one image for students, by all workers together."""
    pixel_bytes: float

    def limited(self, limit: int) -> SplitWork:
        """Return it with at most `limit` samples; finished shards stay finished, decoded pixels do not."""
        if limit >= self.rows:
            return self
        share = limit / self.rows

        def cut(progress: WorkProgress) -> WorkProgress:
            total = round(progress.total * share)
            return WorkProgress(min(progress.done, total), total)

        return replace(self, rows=limit, packed=cut(self.packed), embedded=cut(self.embedded), pixels=NOTHING)


@dataclass(frozen=True)
class ArmWork:
    """A student with a target space."""

    student: str
    target: str
    trained: WorkProgress = NOTHING
    evaluated: WorkProgress = NOTHING

    def anew(self) -> ArmWork:
        """Return it with other parameters: nothing of it is finished."""
        return ArmWork(self.student, self.target)


@dataclass(frozen=True)
class Machine:
    """Measurements of this machine that do not depend on a split."""

    device: str
    cores: int
    workers: int
    light_start: float
    """Seconds to start Python and a stage without torch."""
    middle_start: float
    """The same with Dask and SciPy."""
    heavy_start: float
    """The same with torch, open_clip and timm."""
    light_bytes: int
    heavy_bytes: int
    """Memory of such a process."""
    teachers: tuple[TeacherSpeed, ...] | None
    """Speed of the teachers; None if one is not on this machine and has no published architecture."""
    teacher_batch: int
    moments_seconds: float
    """Seconds of the co-moments of one sample with its captions, on one thread."""
    whiten_seconds: Mapping[str, float]
    students: Mapping[str, StudentSpeed]

    @property
    def processes(self) -> int:
        """Return the number of workers that the cores can run."""
        return max(1, min(self.workers, self.cores))


@dataclass(frozen=True)
class Workload:
    """All of a project's work with one set of parameters."""

    splits: Mapping[str, SplitWork]
    dim: int
    pre_norms: int
    moments: WorkProgress
    targets: Mapping[str, WorkProgress]
    arms: Sequence[ArmWork]
    batches: Mapping[str, int]
    """Batch size of training, by student."""
    epochs: int
    image_size: int
    evaluations: int
    watched: str | None
    scored: tuple[str, ...]
    """Splits that `evaluate` embeds with a student."""
    streamed: bool
    """Whether training images are decoded at each use."""
    scorers: tuple[str, ...]
    report: WorkProgress
    machine: Machine

    @property
    def students(self) -> list[str]:
        """Return the distinct students, the fastest step first."""
        speeds = self.machine.students
        return sorted({arm.student for arm in self.arms}, key=lambda name: speeds[name].step(self.batches[name]))

    def with_limit(self, limit: int) -> Workload:
        """Return it with `pack.limit`."""
        return self._anew(splits={name: split.limited(limit) for name, split in self.splits.items()}, moments=NOTHING)

    def with_streamed_pixels(self) -> Workload:
        """Return it with `distill.training.pixels: streamed`."""
        return self._anew(streamed=True)

    def with_epochs(self, epochs: int) -> Workload:
        """Return it with `distill.training.epochs`."""
        return self._anew(epochs=epochs)

    def with_batch(self, batch: int) -> Workload:
        """Return it with `distill.training.batch`."""
        return self._anew(batches=dict.fromkeys(self.batches, batch))

    def with_size(self, size: int) -> Workload:
        """Return it with `distill.training.image_size`; the cost is proportional to the number of pixels."""
        share = (size / self.image_size) ** 2
        speeds = {
            name: replace(
                speed,
                row_seconds=share * speed.row_seconds,
                look_seconds=share * speed.look_seconds,
                row_bytes=share * speed.row_bytes,
            )
            for name, speed in self.machine.students.items()
        }
        splits = {
            name: replace(split, pixels=NOTHING, pixel_bytes=share * split.pixel_bytes)
            for name, split in self.splits.items()
        }
        return self._anew(image_size=size, splits=splits, machine=replace(self.machine, students=speeds))

    def with_arms(self, students: Sequence[str], targets: Sequence[str]) -> Workload:
        """Return it with these `distill.students` and `distill.targets`; trained arms stay trained."""
        return replace(self, arms=tuple(a for a in self.arms if a.student in students and a.target in targets))

    def _anew(self, **changes: object) -> Workload:
        targets = self.targets if "moments" not in changes else dict.fromkeys(self.targets, NOTHING)
        whole = {"arms": tuple(arm.anew() for arm in self.arms), "targets": targets, "report": NOTHING, **changes}
        return replace(self, **whole)  # type: ignore[arg-type]  # fields of this very class, by name
