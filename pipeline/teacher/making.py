"""Make shards: decoding runs ahead, the teacher looks, the finished shard is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from cache.manifest import view_name
from pipeline.data.ahead import map_ahead, map_in_bursts
from pipeline.data.samples import Packed, Sample
from pipeline.data.views import ViewParams
from pipeline.project.clock import Clock
from pipeline.project.runtime import Runtime
from pipeline.teacher.choice import TeacherParams
from pipeline.teacher.clip import Teacher
from pipeline.teacher.parts import PROMPTS, TEXT, Work
from pipeline.teacher.rows import Prepared, look, prepare, text_shard


@dataclass(frozen=True)
class Job:
    """Shards to make, and everything that a worker on any machine needs for it."""

    packed: Packed
    teacher: TeacherParams
    params: ViewParams
    works: tuple[Work, ...]
    missing: dict[int, tuple[str, ...]]
    """Names of the parts that each packed shard lacks."""
    batch: int
    runtime: Runtime

    def one(self, number: int) -> Job:
        """Return the job of a single shard."""
        return replace(self, missing={number: self.missing[number]})

    def views(self, number: int) -> list[int]:
        """Return the views that a shard lacks, by their number."""
        return [int(name.rpartition("-")[2]) for name in self.missing[number] if name.startswith("image/")]

    @property
    def embeddings(self) -> int:
        """Return how many images of how many views, and images with captions, there are to do."""
        return sum(self.packed.shards[number].rows * len(parts) for number, parts in self.missing.items())


def lacking(works: Sequence[Work]) -> dict[int, tuple[str, ...]]:
    """Return the names of the parts that each packed shard still lacks; prompts belong to no shard."""
    lacks: dict[int, list[str]] = {}
    for work in works:
        if work.name != PROMPTS:
            for number in sorted(set(range(work.shards)) - work.finished().keys()):
                lacks.setdefault(number, []).append(work.name)
    return {number: tuple(names) for number, names in sorted(lacks.items())}


def make_shards(job: Job, teacher: Teacher, advance: Callable[[int, str], None]) -> None:
    """Embed what the shards of a job lack.

    Decoding runs ahead of a teacher on a GPU, over the ends of shards too. Where the teacher computes on the same
    cores, they decode between its batches.
    """
    clock = Clock()
    works = {work.name: work for work in job.works}
    decoding = map_in_bursts if teacher.device.type == "cpu" else map_ahead
    prepared = decoding(lambda item: _prepare(job, teacher, *item), _samples(job), job.runtime.workers, job.batch)
    with closing(prepared):
        for number, parts in job.missing.items():
            views = job.views(number)

            def step(rows: int, done: int = len(views)) -> None:
                advance(rows * done, clock.shares())

            rows = job.packed.shards[number].rows
            looked = look(teacher, prepared, rows, batch=job.batch, clock=clock, step=step)
            for view, shard in zip(views, looked.images, strict=True):
                with clock.on("write"):
                    works[view_name(view)].write(number, shard)
            if TEXT in parts:
                with clock.on("forward"):
                    text = text_shard(teacher, looked, job.batch)
                with clock.on("write"):
                    works[TEXT].write(number, text)
                advance(len(looked.keys), clock.shares())


def _samples(job: Job) -> Iterator[tuple[int, Sample]]:
    return ((number, sample) for number in job.missing for sample in job.packed.read(number, job.runtime.verify))


def _prepare(job: Job, teacher: Teacher, number: int, sample: Sample) -> Prepared:
    return prepare(sample, job.views(number), job.params, teacher.identity)
