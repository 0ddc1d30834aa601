"""Plan of the embeddings of one split by one teacher: opened once, run, and published."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cache.manifest import NAME, Manifest, shard_name, write_manifest
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.text_slice import CARD as SLICE_CARD
from pipeline.data.text_slice import WEIGHTS as SLICE_WEIGHTS
from pipeline.data.text_slice import TextSlice, write_slice
from pipeline.data.views import ViewParams
from pipeline.project.code_versions import record_maker
from pipeline.project.params import Runtime
from pipeline.project.progress import progress
from pipeline.project.remote.store import RemoteStore
from pipeline.teacher.batch_size import find_batch_size
from pipeline.teacher.further_captions import cut_remarks
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.parts import LIBRARIES, PartBuild, plan_parts, resolve_batch_size, reuse_shards
from pipeline.teacher.precision import check_precision
from pipeline.teacher.sharding import SINGLE_PROCESS, ShardAssignment, lock_parts, planning_lock
from pipeline.teacher.sharing import fetch_parts, put_parts, settle_batch_size, share_parts
from pipeline.teacher.token_shards import TokenEncoder
from pipeline.teacher.worker import EmbedJob, embed_shards, missing_shards

PUBLISH_LOCK_SECONDS = 60.0
"""Longest time for which ranks that finish their last shard hold the lock."""
ShardRunner = Callable[[EmbedJob, Callable[[int, str], None]], None]
"""Makes the shards of a job on other machines, and reports progress."""


@dataclass(frozen=True)
class EmbedPlan:
    """The parts of a split by one teacher, their missing shards, and the function that makes them."""

    name: str
    """Name of the teacher among several; '' if it is the only one."""
    packed: PackedSplit
    params: TeacherParams
    teacher: Teacher
    views: ViewParams
    encoder: TokenEncoder | None
    text_slice: TextSlice | None
    parts: tuple[PartBuild, ...]
    missing: dict[int, tuple[str, ...]]
    """Names of the parts that this process must make for each packed shard."""
    batch: int
    share: ShardAssignment
    store: WorkStore
    remote: RemoteStore | None = None

    @classmethod
    @contextmanager
    def open(  # noqa: PLR0917  what decides an embedding, and where it is kept
        cls,
        name: str,
        packed: PackedSplit,
        params: TeacherParams,
        teacher: Teacher,
        views: ViewParams,
        store: WorkStore,
        runtime: Runtime,
        *,
        encoder: TokenEncoder | None = None,
        text_slice: TextSlice | None = None,
        share: ShardAssignment = SINGLE_PROCESS,
    ) -> Iterator[EmbedPlan]:
        """Find the missing shards, and lock the parts until the plan is closed.

        Raises:
            LockedError: another process embeds the same.
            UsageError: it was begun with another number of processes.
        """
        remote = RemoteStore(runtime.remote) if runtime.remote else None
        tokens = encoder.facts() if encoder else None
        parts = plan_parts(packed, teacher.identity.facts(), views, store, tokens, remote=remote)
        with lock_parts(parts, store, share), share_parts(parts, remote, share):
            with planning_lock(parts, store, share):
                batch = resolve_batch_size(
                    parts,
                    store,
                    runtime.requested_teacher_batch,
                    lambda: find_batch_size(teacher, packed.max_shard_rows),
                )
                batch = settle_batch_size(parts, remote, batch)
                for part in parts:
                    record_maker(part.folder, "embed")
                    reuse_shards(part, batch, store)
            missing = share.assigned(missing_shards(parts))
            facts = params, teacher, views, encoder, text_slice
            yield cls(name, packed, *facts, tuple(parts), missing, batch, share, store, remote)

    def run(self, runtime: Runtime, elsewhere: ShardRunner | None = None) -> None:
        """Make the missing shards, in this process or `elsewhere`.

        Raises:
            UsageError: the teacher's half precision is too noisy.
            PipelineError: its output has NaN, an image cannot be decoded, or what `elsewhere` raises.
        """
        if not self.missing:
            return
        check_precision(self.teacher, self.params, self.packed, self.views, self.batch)
        grid, codec = (self.encoder.reader.grid, self.encoder.codec) if self.encoder else (None, None)
        job = EmbedJob(self.packed, self.params, self.views, self.parts, self.missing, self.batch, runtime, grid, codec)
        label = f" by {self.name}" if self.name else ""
        with progress(f"embed {self.packed.split}{label}{self.share.label}", job.embeddings, "embeddings") as advance:
            if elsewhere:
                elsewhere(job, advance)
            else:
                embed_shards(job, self.teacher, advance)
        for remark in cut_remarks(self.teacher, self.packed, self.parts, self.missing):
            print(f"embed {self.packed.split}{label}: {remark}", file=sys.stderr)

    def unfinished(self) -> int:
        """Return the number of shards that other processes still have to make."""
        if self.remote:
            fetch_parts(self.parts, self.remote)
        return sum(part.shards - len(part.finished_shards()) for part in self.parts)

    def claims(self) -> list[str]:
        """Return the folders of the store that it needs."""
        return [f"{part.folder.name}/" for part in self.parts]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for publishing, because several ranks may finish last."""
        with (
            lock_parts(self.parts[:1], self.store, SINGLE_PROCESS, PUBLISH_LOCK_SECONDS),
            planning_lock(self.parts, self.store, SINGLE_PROCESS),
        ):
            yield

    def files(self) -> dict[str, Path]:
        """Write the manifest, after the text slice if there is one; return all files by their names in the output."""
        if self.remote:
            put_parts(self.parts, self.remote)
        folder, facts = self.parts[0].folder / self.packed.split, self.teacher.identity.facts()
        files = {f"{part.name}/{shard_name(n)}": part.folder / shard_name(n) for part in self.parts for n in _all(part)}
        if self.text_slice is not None:
            write_slice(folder, self.text_slice, facts)
            files |= {name: folder / name for name in (SLICE_WEIGHTS, SLICE_CARD)}
        write_manifest(folder, self._manifest(facts))
        return {**files, NAME: folder / NAME}

    def _manifest(self, teacher: Mapping[str, Any]) -> Manifest:
        return Manifest(
            split=self.packed.split,
            teacher=dict(teacher),
            source={"packed": self.packed.digest, "images": self.packed.rows},
            versions={name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
            batch=self.batch,
            parts={part.name: part.part(part.finished_shards()) for part in self.parts},
        )


def _all(part: PartBuild) -> Sequence[int]:
    return range(part.shards)
