"""Pack one shard: what a worker does, and what it leaves behind so that nobody does it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.atomic import atomic_write
from cache.checksummed_json import read_checksummed_json, write_checksummed_json
from cache.errors import CacheError
from cache.fingerprint import sha256
from pipeline.data.errors import BadSampleError
from pipeline.data.images import Encoding, encode_for_packing
from pipeline.data.packing.packed import PackedShard, Sample, write_tar_to
from pipeline.data.sources.base import LoadedSample, Source
from pipeline.data.sources.caption_files import clean_captions
from pipeline.data.sources.listing import Entry, SkippedSample


@dataclass(frozen=True)
class PackJob:
    """One shard to pack: everything a worker needs."""

    path: Path
    source: Source
    entries: tuple[Entry, ...]
    encoding: Encoding
    classes: int
    """How many a zero-shot set has; 0 for any other split."""


@dataclass(frozen=True)
class PackResult:
    """A shard, what was left out of it, and how many captions it has and lacks."""

    shard: PackedShard
    skipped: tuple[SkippedSample, ...]
    captions: int
    empty_captions: int
    choices: int = 0


def pack_shards(jobs: Sequence[PackJob]) -> list[PackResult]:
    """Pack some shards, or return what is known of them where they are finished.

    While one reaches the disk, the next is read: a worker that waits for a disk does no work.
    """
    with ThreadPoolExecutor(1) as closer:
        return [closing.result() for closing in [_pack(job, closer) for job in jobs]]


def _pack(job: PackJob, closer: ThreadPoolExecutor) -> Future[PackResult]:
    if (done := load_finished(job.path)) is not None:
        return closer.submit(lambda: done)
    tally = _SampleReader(job)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_write(job.path))
        shard = write_tar_to(temporary, job.path.name, tally.samples())
        outcome = PackResult(shard, tuple(tally.skipped), tally.captions, tally.empty_captions, tally.choices)
        return closer.submit(_close, stack.pop_all(), job.path, outcome)


def _close(stack: ExitStack, path: Path, outcome: PackResult) -> PackResult:
    """Bring a shard to the disk under its name, and its record after it."""
    stack.close()
    write_checksummed_json(path.with_suffix(".json"), {**asdict(outcome), "workspace": path.parent.name})
    return outcome


def load_finished(path: Path) -> PackResult | None:
    """Return the outcome of a shard that is packed already and whole: its record is written after it.

    It is hashed again: a file that the disk has damaged since would only be linked into the output again. So would
    one that was moved here from a workspace that packs otherwise.
    """
    try:
        found = read_checksummed_json(path.with_suffix(".json"))
        workspace = found.pop("workspace", path.parent.name)  # records of an earlier version name none
        shard, skipped = PackedShard(**found.pop("shard")), found.pop("skipped")
        outcome = PackResult(shard, tuple(SkippedSample(**skip) for skip in skipped), **found)
        own = (workspace, shard.name) == (path.parent.name, path.name)
        return outcome if own and sha256(path) == shard.sha256 else None
    except (CacheError, OSError, KeyError, TypeError, AttributeError):
        return None


class _SampleReader:
    """The samples of a job as they are read, and the count of what is left out."""

    def __init__(self, job: PackJob) -> None:
        self.job = job
        self.skipped: list[SkippedSample] = []
        self.captions = self.empty_captions = self.choices = 0

    def samples(self) -> Iterator[Sample]:
        for entry in self.job.entries:
            try:
                sample = self._sample(entry, self.job.source.load(entry))
            except BadSampleError as error:
                self.skipped.append(SkippedSample(entry.key, entry.origin, str(error)))
            else:
                yield sample

    def _sample(self, entry: Entry, loaded: LoadedSample) -> Sample:
        """Return a sample as it is packed.

        Raises:
            BadSampleError: no image that can be used, no caption where one should be, or a label without a class.
        """
        choices = loaded.choices
        said = tuple(choice.caption for choice in choices) or loaded.captions or ()
        captions = clean_captions(said)
        if choices and captions != said:
            raise BadSampleError("a caption of its choices is empty, or has no UTF-8 form")
        if loaded.captions is not None and not captions:
            raise BadSampleError("its captions are empty" if said else "no caption")
        if self.job.classes and (loaded.label is None or loaded.label >= self.job.classes):
            raise BadSampleError(f"its label is {loaded.label}, and there are {self.job.classes} classes")
        image = encode_for_packing(loaded.image_data, self.job.encoding)
        self.captions += len(captions)
        self.empty_captions += len(said) - len(captions)
        self.choices += len(choices)
        return Sample(entry.key, image.data, image.extension, captions, loaded.label, entry.origin, choices)
