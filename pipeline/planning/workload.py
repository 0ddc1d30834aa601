"""How much there is to do, and what a unit of it costs here: all that an estimate is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.planning.present import NOTHING, WorkProgress
from pipeline.project.stopwatch import TeacherSpeed
from pipeline.students.speed import StudentSpeed


@dataclass(frozen=True)
class SplitWork:
    """One split: its samples, what each becomes, and the seconds of each in every stage."""

    rows: int
    captions: float
    """Texts of a sample that the teacher reads once."""
    prompts: int
    views: int
    dense: bool
    """Whether the first teacher's tokens are kept, which asks it about each image and text once more."""
    listed: WorkProgress
    packed: WorkProgress
    embedded: WorkProgress
    pixels: WorkProgress
    list_seconds: float
    pack_seconds: float
    """Of one sample in one process."""
    packed_bytes: float
    prepare_seconds: float
    """To decode one sample for the teachers and cut its views, once for each, by all workers together."""
    pixel_seconds: float
    """To decode one image for students, by all workers together."""
    pixel_bytes: float

    def limited(self, limit: int) -> SplitWork:
        """Return it with at most so many samples; finished shards stay finished, and decoded pixels do not."""
        if limit >= self.rows:
            return self
        share = limit / self.rows

        def cut(progress: WorkProgress) -> WorkProgress:
            total = round(progress.total * share)
            return WorkProgress(min(progress.done, total), total)

        return replace(self, rows=limit, packed=cut(self.packed), embedded=cut(self.embedded), pixels=NOTHING)


@dataclass(frozen=True)
class ArmWork:
    """A student against a target space."""

    student: str
    target: str
    trained: WorkProgress = NOTHING
    evaluated: WorkProgress = NOTHING

    def anew(self) -> ArmWork:
        """Return it as under other parameters: nothing of it is there."""
        return ArmWork(self.student, self.target)


@dataclass(frozen=True)
class Machine:
    """What was measured here, beside what belongs to one split."""

    device: str
    cores: int
    workers: int
    light_start: float
    """To start Python and a stage that needs no torch."""
    middle_start: float
    """The same with Dask and SciPy."""
    heavy_start: float
    """The same with torch, open_clip and timm."""
    light_bytes: int
    heavy_bytes: int
    """Main memory of such a process."""
    teachers: tuple[TeacherSpeed, ...] | None
    """Nothing: one is not on this machine and has no published architecture."""
    teacher_batch: int
    moments_seconds: float
    """Co-moments of one sample with its captions, on one thread."""
    whiten_seconds: Mapping[str, float]
    students: Mapping[str, StudentSpeed]

    @property
    def processes(self) -> int:
        """Return how many of the workers the cores can carry."""
        return max(1, min(self.workers, self.cores))


@dataclass(frozen=True)
class Workload:
    """All of a project's work under one set of parameters."""

    splits: Mapping[str, SplitWork]
    dim: int
    pre_norms: int
    moments: WorkProgress
    targets: Mapping[str, WorkProgress]
    arms: Sequence[ArmWork]
    batches: Mapping[str, int]
    """Rows of a training step, by student."""
    epochs: int
    image_size: int
    evaluations: int
    watched: str | None
    scored: tuple[str, ...]
    """Splits that `evaluate` shows to a student."""
    streamed: bool
    """Whether training images are decoded at each use."""
    scorers: tuple[str, ...]
    report: WorkProgress
    machine: Machine

    @property
    def students(self) -> list[str]:
        """Return the students, each once, the cheapest step first."""
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
        """Return it with `distill.training.image_size`: convolutions cost in proportion to the pixels, n² of them."""
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
        """Return it with these of the `distill.students` and `distill.targets`; what is trained stays trained."""
        return replace(self, arms=tuple(a for a in self.arms if a.student in students and a.target in targets))

    def _anew(self, **changes: object) -> Workload:
        targets = self.targets if "moments" not in changes else dict.fromkeys(self.targets, NOTHING)
        whole = {"arms": tuple(arm.anew() for arm in self.arms), "targets": targets, "report": NOTHING, **changes}
        return replace(self, **whole)  # type: ignore[arg-type]  # fields of this very class, by name
