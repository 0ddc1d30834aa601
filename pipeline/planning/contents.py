"""Contents of a split: counted from its source, and a few samples packed to a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.packing.jobs import PackParams
from pipeline.data.packing.packed import PackedSplit, Sample, write_tar_to
from pipeline.data.packing.worker import PackJob, SampleReader
from pipeline.data.sources.base import Source
from pipeline.data.sources.further_captions import hash_caption_files, load_caption_file, match_captions
from pipeline.data.sources.listing import Entry, Listing
from pipeline.data.sources.webdataset import WebDatasetSource
from pipeline.project.errors import PipelineError

SAMPLED_ROWS = 64
"""Number of samples of a split that are packed for measurement."""
SAMPLED_SECONDS = 3.0
TAR_SECONDS = 5.0
"""Time limit for reading tars; the rest is extrapolated by size."""


@dataclass(frozen=True)
class SplitContents:
    """The samples of a split before it is packed."""

    split: str
    source: Source
    listing: Listing
    entries: tuple[Entry, ...]
    """Entries by key; if tars take too long to read, those of the first tars."""
    listed: int
    """Number of samples; an estimate if not all tars were read."""
    further_captions: float = 0.0
    """Average number of additional captions per sample."""

    @property
    def is_exact(self) -> bool:
        """Return whether every sample was listed."""
        return self.listed == len(self.entries)

    def rows(self, limit: int | None) -> int:
        """Return the number of samples that `pack` will take."""
        return self.listed if limit is None else min(limit, self.listed)


@dataclass(frozen=True)
class SplitSample:
    """A few packed samples of a split, and their cost."""

    packed: PackedSplit
    seconds: float
    """Seconds to read, check, encode and write one sample, in one process."""
    row_bytes: float
    """Bytes of a sample in a packed shard."""
    usable: float
    """Fraction of usable samples."""
    texts: tuple[str, ...]
    """Captions of all samples, and foils of a choice set."""
    has_foils: bool


def count_split(split: str, source: Source) -> SplitContents:
    """List a split as `index` and `pack` do, without writing anything.

    Raises:
        UsageError, PipelineError: as `index` and `pack` do.
    """
    listing = source.listing(f"index.{split}")
    if isinstance(source, WebDatasetSource):
        entries, listed = _count_tars(source, listing)
    else:
        entries = tuple(source.plan(listing).entries)
        listed = len(entries)
    if not entries:
        raise PipelineError(f"index.{split}: the source has no samples")
    captions = hash_caption_files(source, listing, split) if source.caption_files else ()
    listing = replace(listing, caption_files=captions)
    ordered = tuple(sorted(entries, key=lambda entry: entry.key))
    return SplitContents(split, source, listing, ordered, listed, _count_further(split, source, listing, ordered))


def _count_further(split: str, source: Source, listing: Listing, entries: tuple[Entry, ...]) -> float:
    """Return the average number of additional captions per sample."""
    key = f"index.{split}.caption_files"
    matches = (match_captions(entries, load_caption_file(source, name, listing, key)) for name in source.caption_files)
    return sum(each.counts["captions"] for each in matches) / len(entries)


def _count_tars(source: WebDatasetSource, listing: Listing) -> tuple[tuple[Entry, ...], int]:
    entries: list[Entry] = []
    read, until = 0, time.monotonic() + TAR_SECONDS
    for name, size in listing.files:
        if entries and time.monotonic() > until:
            break
        entries += source.plan(replace(listing, files=((name, size),))).entries
        read += size
    total = sum(size for _, size in listing.files)
    return tuple(entries), len(entries) if read == total else round(len(entries) * total / read)


def pack_sample(contents: SplitContents, params: PackParams, folder: Path) -> SplitSample:
    """Pack evenly spaced samples of a split into a folder, for at most a few seconds.

    Raises:
        PipelineError: none of them can be used.
    """
    entries = contents.entries[: params.limit]
    sample = [entries[row] for row in np.unique(np.linspace(0, len(entries) - 1, SAMPLED_ROWS).astype(int))]
    classes = contents.listing.classes
    job = PackJob(folder / "shard-00000.tar", contents.source, tuple(sample), params.encoding, len(classes))
    reader, start = SampleReader(job), time.perf_counter()
    shard = write_tar_to(
        job.path, job.path.name, _for_seconds((one for _, _, one in reader.samples()), SAMPLED_SECONDS)
    )
    seconds = time.perf_counter() - start
    if not shard.rows:
        reason = reader.skipped[0] if reader.skipped else None
        raise PipelineError(
            f"index.{contents.split}: none of {len(sample)} samples can be packed"
            + (f", the first, {reason.origin!r}: {reason.reason}" if reason else "")
        )
    packed = PackedSplit(folder, contents.split, classes, contents.listing.templates, (shard,), {})
    tried = shard.rows + len(reader.skipped)
    return SplitSample(
        packed,
        seconds / tried,
        shard.size / shard.rows,
        shard.rows / tried,
        tuple(_texts(packed)),
        reader.choices > 0,
    )


def _for_seconds(samples: Iterator[Sample], seconds: float) -> Iterator[Sample]:
    until = time.monotonic() + seconds
    for sample in samples:
        yield sample
        if time.monotonic() > until:
            return


def _texts(packed: PackedSplit) -> Iterator[str]:
    for sample in packed.read(0, "size"):
        yield from sample.captions
        yield from (foil for choice in sample.choices for foil in choice.foils)
