"""Run the teachers once over a split and cache their embeddings. Later stages do not use a teacher."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import Field, model_validator

from cache.manifest import OTHERS
from cache.teachers import TEACHERS, write_names
from cache.token_codecs import TokenCodec
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.data.text_slice import TextSlice
from pipeline.data.views import ViewParams
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection, Runtime
from pipeline.relations.compression import fit_codec
from pipeline.teacher.cluster_tasks import embed_on_cluster
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams, read_teachers
from pipeline.teacher.plan import EmbedPlan
from pipeline.teacher.sharding import ShardAssignment
from pipeline.teacher.sharing import put_manifests
from pipeline.teacher.text_slice import TextSliceParams, slice_text_tower
from pipeline.teacher.token_shards import TokenEncoder, TokenParams, check_first, first_tokens
from pipeline.teacher.tokens import token_reader


class EmbedParams(ParamsSection):
    """The `embed:` section."""

    teacher: TeacherParams | None = Field(default=None, exclude_if=lambda params: params is None)
    teachers: dict[str, TeacherParams] | None = Field(default=None, exclude_if=lambda params: params is None)
    """Several teachers by name, whose embeddings are stored separately.

    Commands use the first one for texts, and for tokens and the text slice.
    """
    views: ViewParams = Field(default_factory=ViewParams)
    text_slice: TextSliceParams | None = Field(default=None, exclude_if=lambda params: params is None)
    """Slice of the teacher's text tower to cache, for students with a text tower."""
    tokens: TokenParams | None = Field(default=None, exclude_if=lambda params: params is None)
    """Splits whose tokens are cached, for scorers of the dense map."""

    @model_validator(mode="after")
    def _teachers_are_named(self) -> EmbedParams:
        read_teachers(self.teacher, self.teachers)
        return self

    @property
    def by_name(self) -> dict[str, TeacherParams]:
        """Return the teachers by name, in order; a single one has no name."""
        return read_teachers(self.teacher, self.teachers)


def embed(  # noqa: PLR0917  the contract of the stage
    split: str, params: EmbedParams, layout: Layout, runtime: Runtime, rank: int = 0, world: int = 1
) -> Path:
    """Write `data/embeddings/<split>/`: views, text or prompts of each teacher, and the manifest last.

    Each part is stored under the fingerprint of its inputs; existing shards are not made again. A process with a share
    of the shards, `rank` of `world`, writes the split only if all shards are then finished.

    Raises:
        UsageError: a teacher cannot be loaded, its half precision is too noisy, or another job has another world size.
        PipelineError: its output has NaN, or an image cannot be decoded.
        WorkerMismatchError: a worker of a cluster is not set up as this process is.
        MissingError, DamagedError: the packed split does not exist, or changed.
        LockedError: another process embeds the same, on this machine or through `runtime.remote`.
        RemoteError: `runtime.remote` denies access, or does not answer.
    """
    share, packed = ShardAssignment(rank, world), _open_resolved(layout.packed(split))
    store, out = WorkStore(layout.store), layout.embeddings(split)
    with ExitStack() as locks:
        plans: list[EmbedPlan] = []
        for name, teacher in params.by_name.items():
            twin = next((plan for plan in plans if plan.params == teacher), None)
            opening = nullcontext(replace(twin, name=name, missing={})) if twin else None
            plans.append(locks.enter_context(opening or _open_plan(name, params, packed, store, runtime, share)))
        store.pin("embed", out, [claim for plan in plans for claim in plan.claims()])
        for plan in plans:
            plan.run(runtime, partial(embed_on_cluster, layout) if runtime.scheduler else None)
        if share.is_single:
            return _publish(plans, store, out)
    if left := sum(plan.unfinished() for plan in plans):
        print(f"embed {split}{share.label}: done; {left} shards of other ranks are still to come", file=sys.stderr)
        return out
    with ExitStack() as locks:
        for plan in plans:
            locks.enter_context(plan.locked())
        return _publish(plans, store, out)


@contextmanager
def _open_plan(  # noqa: PLR0917  one name out of the stage's own arguments
    name: str, params: EmbedParams, packed: PackedSplit, store: WorkStore, runtime: Runtime, share: ShardAssignment
) -> Iterator[EmbedPlan]:
    """Load a teacher, and open its plan."""
    teacher = load_teacher(params.by_name[name], share.device(runtime.device))
    split, is_first = packed.split, name == next(iter(params.by_name))
    # Only training images have crops; all others have the center view alone.
    views = params.views if split == "train" else params.views.model_copy(update={"crops": 0})
    dense = params.tokens if params.tokens and split in params.tokens.splits and is_first else None
    with EmbedPlan.open(
        name,
        packed,
        params.by_name[name],
        teacher,
        views,
        store,
        runtime,
        encoder=_encoder(teacher, dense, packed, views) if dense else None,
        text_slice=_slice(teacher, params.text_slice) if split == "train" and is_first else None,
        share=share,
    ) as plan:
        yield plan


def _slice(teacher: Teacher, params: TextSliceParams | None) -> TextSlice | None:
    return slice_text_tower(teacher, params) if params else None


def _encoder(teacher: Teacher, params: TokenParams, packed: PackedSplit, views: ViewParams) -> TokenEncoder:
    """Return the token encoder; a codec is fitted on the split's first images, which is reproducible."""
    reader = token_reader(teacher, params.grid)
    check_first(reader, packed, views)
    if not params.fitted:
        return TokenEncoder(reader, TokenCodec(params.format))
    first = first_tokens(reader, packed, views)
    return TokenEncoder(reader, fit_codec(params.format, params.rank, params.parts, first.patches, first.words))


def _open_resolved(folder: Path) -> PackedSplit:
    """Open a packed split with its absolute path, so that workers of a cluster find it."""
    return replace(open_packed(folder), folder=folder.resolve(), base=Path.cwd())


def _publish(plans: list[EmbedPlan], store: WorkStore, out: Path) -> Path:
    """Link the files of all teachers to the output, the first one's manifest last."""
    first, *others = plans
    files: dict[str, Path] = dict(first.files())
    for plan in others:
        files |= {f"{OTHERS}/{plan.name}/{name}": path for name, path in plan.files().items()}
    if first.name:
        folder = first.parts[0].folder / first.packed.split
        write_names(folder, [plan.name for plan in plans])
        files[TEACHERS] = folder / TEACHERS
    store.publish(files, out)
    if first.remote:
        put_manifests(first.packed.split, files, first.remote)
    return out
