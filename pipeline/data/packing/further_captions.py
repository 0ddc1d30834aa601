"""Pack files of additional captions next to the shards of a split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from pipeline.data.packing.caption_shards import PackedCaptions, caption_shard_name, write_caption_shard
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.sources.base import Source
from pipeline.data.sources.further_captions import (
    caption_remarks,
    load_caption_file,
    match_captions,
    require_known_names,
)
from pipeline.data.sources.listing import Entry, Listing
from pipeline.project.errors import UsageError

EntriesByShard = Sequence[Sequence[Entry]]


def pack_captions(
    packed: PackedSplit, source: Source, listing: Listing, packed_entries: EntriesByShard, workspace: Path
) -> tuple[PackedSplit, dict[str, Path]]:
    """Return the split with its additional captions, and their files by name.

    Problems are reported as one line each: images without captions, unknown image names, empty or duplicate captions.

    Raises:
        UsageError: a file names no packed image, or the split has no captions of its own.
        PipelineError: a file changed since it was listed.
    """
    key = f"index.{packed.split}.caption_files"
    if source.caption_files and not packed.counts["captions"]:
        raise UsageError(
            f"params: '{key}': the images of '{packed.split}' have no captions of their own. Give one file as theirs "
            "(source: table), and others as further ones."
        )
    by_name: dict[str, PackedCaptions] = {}
    files: dict[str, Path] = {}
    for name in sorted(source.caption_files):
        by_name[name], own = _pack_file(packed, source, name, listing, packed_entries, workspace)
        files |= own
    return replace(packed, caption_files=by_name), files


def _pack_file(  # noqa: PLR0917  one name out of the caller's arguments
    packed: PackedSplit, source: Source, name: str, listing: Listing, packed_entries: EntriesByShard, workspace: Path
) -> tuple[PackedCaptions, dict[str, Path]]:
    entries, key = list(chain.from_iterable(packed_entries)), f"index.{packed.split}.caption_files"
    matched = match_captions(entries, load_caption_file(source, name, listing, key))
    require_known_names(matched, entries, source.caption_files[name].file, f"{key}.{name}.file")
    for remark in caption_remarks(name, matched):
        print(f"pack {packed.split}: {remark}", file=sys.stderr)
    shards, captions = [], iter(matched.captions)
    files: dict[str, Path] = {}
    for number, own in enumerate(packed_entries):
        path = workspace / f"{packed.split}-captions-{name}-{number:05d}.jsonl"
        shards.append(write_caption_shard(path, [entry.key for entry in own], [next(captions) for _ in own]))
        files[caption_shard_name(name, number)] = path
    return PackedCaptions(tuple(shards), matched.counts), files
