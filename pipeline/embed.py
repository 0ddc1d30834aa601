"""Run the teacher once over a split and keep what it said. Nothing after this stage knows a teacher."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from cache.manifest import NAME, Manifest, shard_name, write_manifest
from cache.token_codecs import TokenCodec
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.data.text_slice import CARD as SLICE_CARD
from pipeline.data.text_slice import WEIGHTS as SLICE_WEIGHTS
from pipeline.data.text_slice import TextSlice, write_slice
from pipeline.data.views import ViewParams
from pipeline.project.code_versions import record_maker
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection
from pipeline.project.progress import progress
from pipeline.project.runtime import Runtime
from pipeline.relations.compression import fit_codec
from pipeline.teacher.batch_size import find_batch_size
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.parts import PROMPTS, PartBuild, plan_parts, resolve_batch_size, reuse_shards
from pipeline.teacher.precision import check_precision
from pipeline.teacher.sharding import SINGLE_PROCESS, ShardAssignment, lock_parts, planning_lock
from pipeline.teacher.shards import embed_prompts
from pipeline.teacher.text_slice import TextSliceParams, slice_text_tower
from pipeline.teacher.token_shards import TokenEncoder, TokenParams, check_first, first_tokens
from pipeline.teacher.tokens import token_reader
from pipeline.teacher.worker import EmbedJob, embed_shards, missing_shards

LIBRARIES = ("numpy", "open_clip_torch", "pillow", "torch")
PUBLISH_LOCK_SECONDS = 60.0
"""Ranks that have just made their last shard need so long, at most, to let go of it."""


class EmbedParams(ParamsSection):
    """The `embed:` section."""

    teacher: TeacherParams
    views: ViewParams = Field(default_factory=ViewParams)
    text_slice: TextSliceParams | None = Field(default=None, exclude_if=lambda params: params is None)
    """How much of the teacher's text tower is kept beside the training embeddings, for students that read."""
    tokens: TokenParams | None = Field(default=None, exclude_if=lambda params: params is None)
    """Of which splits the teacher's tokens are kept beside its embeddings, for scorers of the dense map."""


def embed(  # noqa: PLR0917  the contract of the stage
    split: str, params: EmbedParams, layout: Layout, runtime: Runtime, rank: int = 0, world: int = 1
) -> Path:
    """Write `data/embeddings/<split>/`: views, text or prompts, and the manifest last.

    Each part is kept in the store by what decides it; whatever is there already is not made again. A process that
    has only a share of the shards, `rank` of `world`, writes the split only if it then finds all of them made.

    Raises:
        UsageError: the teacher cannot be loaded, its half precision is too rough, or others count other shares.
        PipelineError: it answers with NaN, or an image cannot be decoded.
        MissingError, DamagedError: the packed split is not there, or not what was packed.
        LockedError: someone else embeds the same.
    """
    share, packed = ShardAssignment(rank, world), _open_resolved(layout.packed(split))
    teacher = load_teacher(params.teacher, share.device(runtime.device))
    first = slice_text_tower(teacher, params.text_slice) if params.text_slice and split == "train" else None
    store, out = WorkStore(layout.store), layout.embeddings(split)
    # Students see crops of what they learn from; everything else is looked at as it is.
    views = params.views if split == "train" else params.views.model_copy(update={"crops": 0})
    dense = params.tokens if params.tokens and split in params.tokens.splits else None
    encoder = _encoder(teacher, dense, packed, views) if dense else None
    works = plan_parts(packed, teacher.identity.facts(), views, store, encoder.facts() if encoder else None)
    with lock_parts(works, store, share):
        with planning_lock(works, store, share):
            store.pin("embed", out, [f"{work.folder.name}/" for work in works])
            batch = resolve_batch_size(
                works, store, runtime.requested_teacher_batch, lambda: find_batch_size(teacher, packed.max_shard_rows)
            )
            for work in works:
                record_maker(work.folder, "embed")
                reuse_shards(work, batch, store)
        missing = share.assigned(missing_shards(works))
        if missing:
            check_precision(teacher, params.teacher, packed, views, batch)
        grid, codec = (encoder.reader.grid, encoder.codec) if encoder else (None, None)
        job = EmbedJob(packed, params.teacher, views, tuple(works), missing, batch, runtime, grid, codec)
        _make_missing(job, teacher, share)
        if share.is_single:
            return _publish(_manifest(packed, works, teacher, batch), works, store, out, first)
    if left := sum(work.shards - len(work.finished_shards()) for work in works):
        print(f"embed {split}{share.label}: done; {left} shards of other ranks are still to come", file=sys.stderr)
        return out
    # More than one rank may be the last: one after another they write the same.
    with (
        lock_parts(works[:1], store, SINGLE_PROCESS, PUBLISH_LOCK_SECONDS),
        planning_lock(works, store, SINGLE_PROCESS),
    ):
        return _publish(_manifest(packed, works, teacher, batch), works, store, out, first)


def _encoder(teacher: Teacher, params: TokenParams, packed: PackedSplit, views: ViewParams) -> TokenEncoder:
    """Return how tokens are read and kept; a codec is fitted on the split's first images, the same each time."""
    reader = token_reader(teacher, params.grid)
    check_first(reader, packed, views)
    if not params.fitted:
        return TokenEncoder(reader, TokenCodec(params.format))
    first = first_tokens(reader, packed, views)
    return TokenEncoder(reader, fit_codec(params.format, params.rank, params.parts, first.patches, first.words))


def _open_resolved(folder: Path) -> PackedSplit:
    """Open a packed split by its own name, and let workers of a cluster find it by the whole path."""
    return replace(open_packed(folder), folder=folder.resolve())


def _make_missing(job: EmbedJob, teacher: Teacher, share: ShardAssignment) -> None:
    prompts = [work for work in job.parts if work.name == PROMPTS and not work.finished_shards()]
    for work in prompts if share.rank == 0 else ():
        work.write(0, embed_prompts(teacher, job.packed.classes, job.packed.templates, job.batch))
    if job.missing:
        with progress(f"embed {job.packed.split}{share.label}", job.embeddings, "embeddings") as advance:
            if job.runtime.scheduler:
                _on_cluster(job, job.runtime.scheduler, advance)
            else:
                embed_shards(job, teacher, advance)


def _on_cluster(job: EmbedJob, address: str, advance: Callable[[int, str], None]) -> None:
    """Give each shard as a task to a Dask cluster that sees the same files; a task done twice does no harm."""
    from dask.distributed import Client, as_completed

    with Client(address) as client:
        tasks = [job.for_shard(number) for number in job.missing]
        futures = client.map(_task, tasks, pure=False)
        by_future = dict(zip(futures, tasks, strict=True))
        for future in as_completed(futures):
            future.result()
            advance(by_future[future].embeddings, "")


def _task(job: EmbedJob) -> None:
    teacher = _worker_teacher(job.teacher, job.runtime.device)
    expected = job.parts[0].fingerprint_inputs["teacher"]
    if teacher.identity.facts() != expected:
        raise PipelineError(f"the teacher on {platform.node()} is another one than {expected['model']} of the driver")
    embed_shards(job, teacher, lambda _rows, _note: None)


@lru_cache(maxsize=1)
def _worker_teacher(params: TeacherParams, device: str) -> Teacher:
    return load_teacher(params, device)


def _manifest(packed: PackedSplit, works: list[PartBuild], teacher: Teacher, batch: int) -> Manifest:
    return Manifest(
        split=packed.split,
        teacher=teacher.identity.facts(),
        source={"packed": packed.digest, "images": packed.rows},
        versions={name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        batch=batch,
        parts={work.name: work.part(work.finished_shards()) for work in works},
    )


def _publish(manifest: Manifest, works: list[PartBuild], store: WorkStore, out: Path, first: TextSlice | None) -> Path:
    kept = works[0].folder / manifest.split
    write_manifest(kept, manifest)
    files = {f"{w.name}/{shard_name(n)}": w.folder / shard_name(n) for w in works for n in range(w.shards)}
    if first is not None:
        write_slice(kept, first, manifest.teacher)
        files |= {name: kept / name for name in (SLICE_WEIGHTS, SLICE_CARD)}
    store.publish({**files, NAME: kept / NAME}, out)
    return out
