"""Find finished work by the names that the stages use, without writing or hashing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.fingerprint import fingerprint
from cache.manifest import PATCHES, read_manifest
from cache.work_store import WorkStore
from pipeline.data.packing.caption_shards import PackedCaptions
from pipeline.data.packing.jobs import PackParams, plan_jobs, shard_facts
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.data.packing.worker import PackResult, read_record
from pipeline.data.sources.listing import load_listing
from pipeline.data.views import required_side
from pipeline.evaluation.model_files import read_evaluation
from pipeline.planning.contents import SplitContents
from pipeline.project.code_versions import code_version
from pipeline.project.errors import UsageError
from pipeline.project.input_files import MAX_DOCUMENT_BYTES, read_input, read_yaml
from pipeline.project.layout import CARD, Layout
from pipeline.project.params import Runtime
from pipeline.students.arm import open_arm
from pipeline.students.checkpoint import is_finished, read_card
from pipeline.students.inputs.pixel_files import INDEX
from pipeline.students.run import ArmParams
from pipeline.whitening.heads import fit_target_space
from pipeline.whitening.moments_file import StoredMoments, embeddings_digest, load_moments
from pipeline.whitening.spaces import TargetParams, load_space

STATE = "state.safetensors"


@dataclass(frozen=True)
class WorkProgress:
    """Finished fraction of some work."""

    done: int = 0
    total: int = 1

    @property
    def missing(self) -> float:
        """Return the unfinished fraction."""
        return 1 - self.done / self.total if self.total else 0.0

    @property
    def is_whole(self) -> bool:
        """Return whether all work is finished."""
        return self.done >= self.total


NOTHING = WorkProgress()


def find_listing(contents: SplitContents, layout: Layout) -> WorkProgress:
    """Find an index that lists the present files of the source."""
    try:
        listed = load_listing(layout.index(contents.split), contents.source.model_dump(mode="json"))
    except CacheError:
        return NOTHING
    now = contents.listing
    same = fingerprint({"files": listed.files}) == fingerprint({"files": now.files})
    return WorkProgress(int(same and listed.caption_files == now.caption_files))


def find_packed(contents: SplitContents, params: PackParams, layout: Layout) -> tuple[WorkProgress, PackedSplit | None]:
    """Find the packed shards of a split in the store; return the split if it is complete."""
    rows, store = contents.rows(params.limit), WorkStore(layout.store, read_only=True)
    if not contents.is_exact:
        return _published(contents, rows, layout)
    workspace = store.workspace("pack", fingerprint(shard_facts(contents.source, contents.listing, params)))
    if not workspace.is_dir():
        return WorkProgress(0, rows), None
    classes = contents.listing.classes
    jobs = plan_jobs(workspace, contents.source, contents.entries[: params.limit], params, len(classes))
    records = [read_record(job.path) if job.path.exists() else None for job in jobs]
    done = sum(len(job.entries) for job, record in zip(jobs, records, strict=True) if record)
    whole = [record for record in records if record]
    return WorkProgress(done, rows), _packed_split(contents, whole, layout) if len(whole) == len(jobs) else None


def _published(contents: SplitContents, rows: int, layout: Layout) -> tuple[WorkProgress, PackedSplit | None]:
    """Return the packed split of the same tars, for a source that was not read completely."""
    try:
        packed = open_packed(layout.packed(contents.split))
    except CacheError:
        return WorkProgress(0, rows), None
    same = find_listing(contents, layout).is_whole
    return (WorkProgress(rows, rows), packed) if same else (WorkProgress(0, rows), None)


def _packed_split(contents: SplitContents, records: Sequence[PackResult], layout: Layout) -> PackedSplit:
    filled = [record.shard for record in records if record.shard.rows]
    shards = tuple(replace(s, name=f"shard-{number:05d}{Path(s.name).suffix}") for number, s in enumerate(filled))
    counts = {name: sum(getattr(record, name) for record in records) for name in ("captions", "choices")}
    classes, templates = contents.listing.classes, contents.listing.templates
    domains = dict(contents.listing.domains)
    packed = PackedSplit(layout.packed(contents.split), contents.split, classes, templates, shards, counts, domains)
    return replace(packed, caption_files=_packed_captions(contents, layout))


def _packed_captions(contents: SplitContents, layout: Layout) -> Mapping[str, PackedCaptions]:
    """Return the packed additional captions, if they match the present files."""
    if not contents.source.caption_files or not find_listing(contents, layout).is_whole:
        return {}
    try:
        files = open_packed(layout.packed(contents.split)).caption_files
    except CacheError:
        return {}
    return files if files.keys() == contents.source.caption_files.keys() else {}


def recorded_teacher(folder: Path, name: str, precision: str) -> dict[str, Any] | None:
    """Return the facts of the teacher that embedded a split, if it has this name."""
    try:
        teacher = read_manifest(folder).teacher
    except CacheError:
        return None
    return dict(teacher) if (teacher.get("model"), teacher.get("precision")) == (name, precision) else None


def has_tokens(folder: Path) -> bool:
    """Return whether embeddings have tokens, in any encoding; `embed` checks the encoding."""
    try:
        return read_manifest(folder).has_parts(PATCHES)
    except CacheError:
        return False


def find_moments(pre_norm: Sequence[str], captions: str, layout: Layout) -> StoredMoments | None:
    """Return the moments, if they match the present training embeddings and parameters."""
    try:
        measured = load_moments(layout.moments)
        digest = embeddings_digest(read_manifest(layout.embeddings("train")))
    except CacheError:
        return None
    fits = (
        measured.embeddings_digest == digest
        and measured.captions == captions
        and {*pre_norm} <= {*measured.by_pre_norm}
    )
    return measured if fits else None


def find_space(name: str, params: TargetParams, moments: StoredMoments, layout: Layout) -> WorkProgress:
    """Find a fitted target space; it is fitted again (about a second) and compared by its fingerprint."""
    try:
        there = load_space(layout.target(name))
    except CacheError:
        return NOTHING
    return WorkProgress(int(there.fingerprint == fit_target_space(name, params, moments).fingerprint))


def find_student(
    student: str, target: str, recipe: ArmParams, layout: Layout, runtime: Runtime
) -> tuple[WorkProgress, str]:
    """Find a trained arm, or the last saved step of its training; also return its fingerprint.

    Raises:
        UsageError: the student's parameters do not fit it.
    """
    try:
        arm = open_arm(student, target, recipe, layout, runtime.model_copy(update={"verify": "size"}))
        arm, _ = arm.choose_pixels(layout)
    except CacheError:
        return NOTHING, ""
    rows, training = arm.splits["train"].packed.rows, recipe.training
    steps = training.count_steps(max(1, rows // min(training.batch, rows)))
    name = fingerprint(arm.facts())
    folder = WorkStore(layout.store, read_only=True).workspace("distill", name)
    if is_finished(folder, name):
        return WorkProgress(steps, steps), name
    return WorkProgress(min(_saved_step(folder / STATE), steps), steps), name


def find_pixels(packed: PackedSplit, size: int, views: Sequence[Mapping[str, object]], layout: Layout) -> WorkProgress:
    """Find the decoded pixels of a split, by the name that `open_pixel_store` uses."""
    center = all(view["kind"] == "center" for view in views)
    side = size if center else required_side(size, views)
    images = [shard.images_sha256 for shard in packed.shards]
    facts = {"format": code_version("pixels"), "images": images, "side": side, "center": center}
    folder = WorkStore(layout.store, read_only=True).workspace("pixels", fingerprint(facts))
    return WorkProgress(int((folder / INDEX).exists()))


def find_evaluation(student: str, target: str, name: str, layout: Layout, params: Mapping[str, Any]) -> WorkProgress:
    """Find an evaluation of this student; if DVC ran it, with these parameters."""
    folder = layout.model(student, target)
    try:
        card = read_card(folder) if (folder / CARD).exists() else {}
        same = bool(name) and card.get("fingerprint") == name and read_evaluation(folder, card) is not None
    except CacheError:
        return NOTHING
    locked = _locked_params(f"evaluate@{student}-{target}", layout)
    return WorkProgress(int(same and (locked is None or locked.get("evaluate") == params)))


def _locked_params(stage: str, layout: Layout) -> dict[str, Any] | None:
    """Return the parameters with which DVC last ran a stage; None if it never did."""
    try:
        text = read_input(layout.root / "dvc.lock", MAX_DOCUMENT_BYTES).decode()
        locked: dict[str, Any] = read_yaml(text, "dvc.lock")["stages"][stage]["params"]["params.yaml"]
    except (OSError, UsageError, UnicodeDecodeError, KeyError, TypeError):
        return None
    return locked


def _saved_step(path: Path) -> int:
    """Return the step of a saved run, from the header of its safetensors file."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return int(json.loads(header["__metadata__"]["facts"])["step"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return 0
