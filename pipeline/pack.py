"""Pack images and captions into byte-reproducible tar shards."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from cache.atomic import write_checksummed_json, write_json
from cache.fingerprint import fingerprint, sha256
from cache.work_store import WorkStore
from pipeline.data.packing.cluster_tasks import pack_on_cluster, put_objects
from pipeline.data.packing.contents import PackedShard
from pipeline.data.packing.further_captions import pack_captions
from pipeline.data.packing.jobs import PackParams, plan_jobs, shard_facts
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.packing.worker import PackJob, PackResult, pack_shards
from pipeline.data.sources.base import Source
from pipeline.data.sources.listing import Entry, SkippedSample, load_listing
from pipeline.project.code_versions import MADE_BY, record_maker
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.progress import progress
from pipeline.project.remote.store import RemoteStore
from pipeline.project.worker_processes import holding_interrupts, start_worker

__all__ = ["PackParams", "pack"]

_CHUNK_SHARDS = 4
"""Number of shards per task of a worker."""


def pack(split: str, source: Source, params: PackParams, layout: Layout, runtime: Runtime) -> Path:
    """Write `data/packed/<split>/`: shards, `skipped.json`, and `manifest.json` last.

    Finished shards are stored under the facts that decide their bytes: an interrupted run resumes, and after a change
    of one image only its shard is packed.

    Raises:
        MissingError, StaleError: `index` has not run, or listed another source.
        UsageError: by reference, images that would be resized or are not in files.
        PipelineError: more bad samples than `max_skipped_fraction`, nothing to pack, or a file changed meanwhile.
        LockedError: another process packs the same.
        WorkerMismatchError: a worker of a cluster is not set up as this process is.
    """
    listing = load_listing(layout.index(split), source.model_dump(mode="json"))
    plan = source.plan(listing)
    entries = plan.entries_by_key()
    selected = entries[: params.limit]
    _check_referable(source, selected, params)
    store, facts = WorkStore(layout.store), shard_facts(source, listing, params)
    with store.lock("pack", fingerprint(facts)):
        workspace = store.workspace("pack", fingerprint(facts))
        record_maker(workspace, "pack")
        jobs = plan_jobs(workspace, source, selected, params, len(listing.classes))
        beside = ("skipped", "manifest", *(f"captions-{name}-" for name in source.caption_files))
        files = (MADE_BY, *(f"{split}-{name}" for name in beside), *(f"{job.path.stem}." for job in jobs))
        claimed = [f"{workspace.name}/{name}" for name in files]
        store.pin("pack", layout.packed(split), claimed)
        outcomes = _pack_all(split, jobs, layout, runtime)
        skipped = [*plan.skipped, *(skip for outcome in outcomes for skip in outcome.skipped)]
        counts = {
            "listed": len(entries) + len(plan.skipped),
            "beyond_limit": len(entries) - len(selected),
            "packed": sum(outcome.shard.rows for outcome in outcomes),
            "skipped": len(skipped),
            "captions": sum(outcome.captions for outcome in outcomes),
            "empty_captions": sum(outcome.empty_captions for outcome in outcomes),
        }
        if choices := sum(outcome.choices for outcome in outcomes):
            counts["choices"] = choices  # only for a choice set, so that the manifests of others do not change
        _check_counts(split, counts, skipped, params.max_skipped_fraction)
        filled = [outcome.shard for outcome in outcomes if outcome.shard.rows]
        shards = tuple(replace(shard, name=f"shard-{number:05d}{params.suffix}") for number, shard in enumerate(filled))
        domains = dict(listing.domains)
        packed = PackedSplit(layout.packed(split), split, listing.classes, listing.templates, shards, counts, domains)
        # Entries are read from the plan when they are needed: as objects they take 600 bytes a sample.
        filled_jobs = [pair for pair in zip(jobs, outcomes, strict=True) if pair[1].shard.rows]
        packed_entries = [_kept_entries(*pair) for pair in filled_jobs] if source.caption_files else []
        packed, captions = pack_captions(packed, source, listing, packed_entries, workspace)
        remote = RemoteStore(runtime.remote) if runtime.scheduler and runtime.remote else None
        return _publish(packed, filled, skipped, captions, workspace, store, remote)


def _check_referable(source: Source, entries: Sequence[Entry], params: PackParams) -> None:
    """Refuse images that are not in files, which a shard cannot reference; raises UsageError."""
    if params.mode == "copy":
        return
    if params.resize is not None:
        raise UsageError(
            f"params: 'pack.mode: reference' leaves images as they are, and 'pack.resize: {params.resize}' re-encodes "
            "them. Set resize: null (img2dataset can resize while it downloads), or mode: copy."
        )
    if entries and source.image_span(entries[0]) is None:
        raise UsageError(
            f"params: 'pack.mode: reference': the images of this source ({entries[0].origin!r}) do not lie in image "
            "files or tars. Set mode: copy."
        )


def _pack_all(split: str, jobs: Sequence[PackJob], layout: Layout, runtime: Runtime) -> list[PackResult]:
    """Pack missing shards, on a cluster or in `runtime.workers` processes, and return all in order."""
    outcomes = []
    with progress(f"pack {split}", sum(len(job.entries) for job in jobs), "images") as advance:
        if runtime.scheduler:
            return pack_on_cluster(jobs, layout, runtime, advance)
        for job, outcome in zip(jobs, _outcomes(jobs, runtime.workers), strict=True):
            outcomes.append(outcome)
            advance(len(job.entries))
    return outcomes


def _outcomes(jobs: Sequence[PackJob], workers: int) -> Iterator[PackResult]:
    missing = sum(not job.path.exists() for job in jobs)
    chunk = max(1, min(_CHUNK_SHARDS, len(jobs) // (2 * max(1, workers))))
    chunks = [jobs[at : at + chunk] for at in range(0, len(jobs), chunk)]
    if workers < 2 or missing < 2:
        yield from chain.from_iterable(map(pack_shards, chunks))
        return
    # Spawned, not forked: a forked process with threads can hang, and the caller may have imported torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, missing), context, start_worker) as pool:
        with holding_interrupts():
            packed = pool.map(pack_shards, chunks)
        try:
            yield from chain.from_iterable(packed)
        except BrokenProcessPool:
            raise PipelineError(
                f"pack: one of {min(workers, missing)} processes ended without a word, as when memory runs out. "
                "Run it again with fewer runtime.workers: finished shards are kept."
            ) from None


def _check_counts(split: str, counts: dict[str, int], skipped: Sequence[SkippedSample], max_skipped: float) -> None:
    if counts["listed"] != counts["beyond_limit"] + counts["packed"] + counts["skipped"]:
        raise PipelineError(f"{split}: counts do not add up: {counts}")
    tried = counts["packed"] + counts["skipped"]
    if counts["packed"] and counts["skipped"] <= max_skipped * tried:
        return
    reasons = Counter(skip.reason for skip in skipped).most_common(3)
    reason_counts = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    first = f", the first: {skipped[0].origin!r}" if skipped else ""
    raise PipelineError(
        f"{split}: {counts['skipped']} of {tried} samples cannot be packed, more than pack.max_skipped_fraction = "
        f"{max_skipped} allows: {reason_counts}{first}. Fix the source, or raise pack.max_skipped_fraction."
    )


def _kept_entries(job: PackJob, outcome: PackResult) -> list[Entry]:
    """Return the packed samples of a shard."""
    skipped = {skip.key for skip in outcome.skipped}
    return [entry for entry in job.entries if entry.key not in skipped]


def _publish(  # noqa: PLR0917  what the output consists of
    packed: PackedSplit,
    filled: Sequence[PackedShard],
    skipped: Sequence[SkippedSample],
    captions: Mapping[str, Path],
    workspace: Path,
    store: WorkStore,
    remote: RemoteStore | None,
) -> Path:
    """Link the shards to the output, and write the manifest."""
    files = {shard.name: workspace / before.name for shard, before in zip(packed.shards, filled, strict=True)}
    files |= captions
    files |= {name: workspace / f"{packed.split}-{name}" for name in ("skipped.json", "manifest.json")}
    write_json(files["skipped.json"], [asdict(skip) for skip in skipped])
    # Not part of the split's digest, on which embeddings depend: skipped samples do not affect them, and
    # additional captions are a separate part.
    beside: dict[str, Any] = {"skipped_sha256": sha256(files["skipped.json"])}
    if packed.caption_files:
        beside["caption_files"] = {name: caption_file.facts() for name, caption_file in packed.caption_files.items()}
    write_checksummed_json(files["manifest.json"], {**packed.manifest(), **beside})
    if remote is not None:
        put_objects(packed, files, workspace, remote)
    store.publish(files, packed.folder)
    return packed.folder
