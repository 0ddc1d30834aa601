"""Run the teacher once over a split and keep what it said. Nothing after this stage knows a teacher."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from cache.manifest import NAME, Manifest, shard_name, view_name, write_manifest
from cache.store import Store
from pipeline.data.ahead import map_ahead
from pipeline.data.samples import Packed, Sample, open_packed
from pipeline.data.text_slice import TextSlice, write_slice
from pipeline.data.views import ViewParams
from pipeline.project.clock import Clock
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import Section
from pipeline.project.progress import progress
from pipeline.project.runtime import Runtime
from pipeline.teacher.adopt import adopt, agree_on_batch
from pipeline.teacher.choice import TeacherParams
from pipeline.teacher.clip import Teacher, load_teacher
from pipeline.teacher.parts import PROMPTS, TEXT, Work, plan_parts
from pipeline.teacher.rows import Prepared, look, prepare, prompt_shard, text_shard
from pipeline.teacher.slice import SliceParams, cut_slice

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "torch")


class EmbedParams(Section):
    """The `embed:` section."""

    teacher: TeacherParams
    views: ViewParams = Field(default_factory=ViewParams)
    text_slice: SliceParams | None = Field(default=None, exclude_if=lambda params: params is None)
    """How much of the teacher's text tower is kept beside the training embeddings, for students that read."""


@dataclass(frozen=True)
class Job:
    """Shards to make, and everything that a worker on any machine needs for it."""

    packed: Packed
    params: EmbedParams
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


def embed(split: str, params: EmbedParams, layout: Layout, runtime: Runtime) -> Path:
    """Write `data/embeddings/<split>/`: views, text or prompts, and the manifest last.

    Each part is kept in the store by what decides it; whatever is there already is not made again.

    Raises:
        UsageError: the teacher cannot be loaded.
        PipelineError: it answers with NaN, or an image cannot be decoded.
        MissingError, DamagedError: the packed split is not there, or not what was packed.
        LockedError: someone else embeds the same.
    """
    packed = open_packed(layout.packed(split).resolve())
    teacher = load_teacher(params.teacher, runtime.device)
    first = cut_slice(teacher, params.text_slice) if params.text_slice and split == "train" else None
    store = Store(layout.store)
    works = plan_parts(packed, teacher.identity.facts(), params.views, store)
    with ExitStack() as locks:
        for work in works:
            locks.enter_context(store.lock("embed", work.fingerprint))
        store.claim("embed", layout.embeddings(split), [f"{work.folder.name}/" for work in works])
        batch = agree_on_batch(works, runtime.batch)
        for work in works:
            adopt(work, batch, store)
        _make_missing(Job(packed, params, tuple(works), _missing(works), batch, runtime), teacher)
        manifest = _manifest(packed, works, teacher, batch)
        _publish(manifest, works, store, layout.embeddings(split), first)
    return layout.embeddings(split)


def make_shards(job: Job, teacher: Teacher, advance: Callable[[int, str], None]) -> None:
    """Embed what the shards of a job lack; decoding runs ahead of the teacher, over the ends of shards too."""
    clock = Clock()
    works = {work.name: work for work in job.works}
    prepared = map_ahead(lambda item: _prepare(job, teacher, *item), _samples(job), job.runtime.workers, job.batch)
    with closing(prepared):
        for number, parts in job.missing.items():
            views = job.views(number)

            def step(rows: int, done: int = len(views)) -> None:
                advance(rows * done, clock.shares())

            looked = look(teacher, prepared, job.packed.shards[number].rows, batch=job.batch, clock=clock, step=step)
            for view, shard in zip(views, looked.images, strict=True):
                with clock.on("write"):
                    works[view_name(view)].write(number, shard)
            if TEXT in parts:
                with clock.on("forward"):
                    text = text_shard(teacher, looked, job.batch)
                with clock.on("write"):
                    works[TEXT].write(number, text)
                advance(len(looked.keys), clock.shares())


def _make_missing(job: Job, teacher: Teacher) -> None:
    prompts = [work for work in job.works if work.name == PROMPTS and not work.finished()]
    for work in prompts:
        work.write(0, prompt_shard(teacher, job.packed.classes, job.packed.templates, job.batch))
    if job.missing:
        with progress(f"embed {job.packed.split}", job.embeddings, "embeddings") as advance:
            if job.runtime.scheduler:
                _on_cluster(job, job.runtime.scheduler, advance)
            else:
                make_shards(job, teacher, advance)


def _on_cluster(job: Job, address: str, advance: Callable[[int, str], None]) -> None:
    """Give each shard as a task to a Dask cluster that sees the same files; a task done twice does no harm."""
    from dask.distributed import Client, as_completed

    with Client(address) as client:
        tasks = [job.one(number) for number in job.missing]
        futures = client.map(_task, tasks, pure=False)
        by_future = dict(zip(futures, tasks, strict=True))
        for future in as_completed(futures):
            future.result()
            advance(by_future[future].embeddings, "")


def _task(job: Job) -> None:
    teacher = _worker_teacher(job.params.teacher, job.runtime.device)
    expected = job.works[0].facts["teacher"]
    if teacher.identity.facts() != expected:
        raise PipelineError(f"the teacher on {platform.node()} is another one than {expected['model']} of the driver")
    make_shards(job, teacher, lambda _rows, _note: None)


@lru_cache(maxsize=1)
def _worker_teacher(params: TeacherParams, device: str) -> Teacher:
    return load_teacher(params, device)


def _samples(job: Job) -> Iterator[tuple[int, Sample]]:
    return ((number, sample) for number in job.missing for sample in job.packed.read(number, job.runtime.verify))


def _prepare(job: Job, teacher: Teacher, number: int, sample: Sample) -> Prepared:
    return prepare(sample, job.views(number), job.params.views, teacher.identity)


def _missing(works: list[Work]) -> dict[int, tuple[str, ...]]:
    lacks: dict[int, list[str]] = {}
    for work in works:
        if work.name != PROMPTS:
            for number in sorted(set(range(work.shards)) - work.finished().keys()):
                lacks.setdefault(number, []).append(work.name)
    return {number: tuple(names) for number, names in sorted(lacks.items())}


def _manifest(packed: Packed, works: list[Work], teacher: Teacher, batch: int) -> Manifest:
    return Manifest(
        split=packed.split,
        teacher=teacher.identity.facts(),
        source={"packed": packed.digest, "images": packed.rows},
        versions={name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        batch=batch,
        parts={work.name: work.part(work.finished()) for work in works},
    )


def _publish(manifest: Manifest, works: list[Work], store: Store, out: Path, first: TextSlice | None) -> None:
    kept = works[0].folder / manifest.split
    write_manifest(kept, manifest)
    files = {f"{w.name}/{shard_name(n)}": w.folder / shard_name(n) for w in works for n in range(w.shards)}
    store.publish({**files, NAME: kept / NAME}, out)
    if first is not None:
        write_slice(out, first, manifest.teacher)
