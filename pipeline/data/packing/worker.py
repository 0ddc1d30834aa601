"""Pack one shard in a worker, and record the result so that it is not packed again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.atomic import atomic_write, read_checksummed_json, write_checksummed_json
from cache.errors import CacheError
from cache.fingerprint import sha256
from pipeline.data.errors import BadSampleError
from pipeline.data.images import Encoding, encode_for_packing
from pipeline.data.packing.contents import ContentDigest, PackedShard
from pipeline.data.packing.packed import Sample, write_tar_to
from pipeline.data.packing.reference_files import AHEAD, REQUESTS
from pipeline.data.packing.references import ImageReference, write_references
from pipeline.data.prefetch import prefetch_map
from pipeline.data.sources.base import LoadedSample, Source, load_or_error
from pipeline.data.sources.caption_files import clean_captions
from pipeline.data.sources.listing import Entry, FileSpan, SkippedSample
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.remote.objects import ObjectBytes, ObjectState
from pipeline.project.remote.paths import RemotePath

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PackJob:
    """One shard to pack, with everything a worker needs."""

    path: Path
    source: Source
    entries: Sequence[Entry]
    encoding: Encoding
    classes: int
    """Number of classes of a zero-shot set; 0 for any other split."""
    by_reference: bool = False
    """Whether images stay in their files."""


@dataclass(frozen=True)
class PackResult:
    """A shard, its skipped samples, and its numbers of captions."""

    shard: PackedShard
    skipped: tuple[SkippedSample, ...]
    captions: int
    empty_captions: int
    choices: int = 0


def pack_shards(jobs: Sequence[PackJob]) -> list[PackResult]:
    """Pack some shards; return the recorded result of finished ones.

    While one shard is synced to disk, the next is read, so that a worker does not wait for the disk.
    """
    with ThreadPoolExecutor(1) as closer:
        return [closing.result() for closing in [_pack(job, closer) for job in jobs]]


def _pack(job: PackJob, closer: ThreadPoolExecutor) -> Future[PackResult]:
    if (done := load_finished(job.path)) is not None:
        return closer.submit(lambda: done)
    tally = SampleReader(job)
    if job.by_reference:
        return closer.submit(_write_references, job.path, *_collect_references(tally), tally)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_write(job.path))
        shard = write_tar_to(temporary, job.path.name, (sample for _, _, sample in tally.samples()))
        return closer.submit(_close, stack.pop_all(), job.path, tally.result(shard))


def _close(stack: ExitStack, path: Path, outcome: PackResult) -> PackResult:
    """Sync a shard to disk under its name, then its record."""
    stack.close()
    write_checksummed_json(path.with_suffix(".json"), {**asdict(outcome), "workspace": path.parent.name})
    return outcome


def _collect_references(tally: SampleReader) -> tuple[list[ImageReference], FileStates, ContentDigest]:
    """Read every image of a job once, and collect its location and checksum."""
    rows, states, contents = [], FileStates(), ContentDigest()
    spans = {entry.key: _span(tally.job.source, entry) for entry in tally.entries}
    files = {(folder, span.file): span for folder, span in spans.values()}
    for (folder, name), span in files.items():  # before reading, so that a later modification is detected
        states.add(folder / name, span)
    for entry, data, sample in tally.samples():
        crc32, encoded = contents.add(sample), False
        if isinstance(data, bytes) and data is not sample.image:
            crc32, encoded = zlib.crc32(data), True
        rows.append(
            ImageReference(
                entry.key,
                sample.extension,
                *spans[entry.key],
                crc32=crc32,
                encoded=encoded,
                description=sample.description(),
            )
        )
    return rows, states, contents


def _span(source: Source, entry: Entry) -> tuple[Path | RemotePath, FileSpan]:
    if (span := source.image_span(entry)) is None:
        raise UsageError(f"pack.mode: reference: {entry.origin!r} is no image in a file or a tar. Set mode: copy.")
    return span


def _write_references(
    path: Path, rows: list[ImageReference], states: FileStates, contents: ContentDigest, tally: SampleReader
) -> PackResult:
    """Write a shard of references, then its record with the state of each source file."""
    shard = contents.shard(path.name, *write_references(path, rows, states.states))
    outcome = tally.result(shard)
    about = {"workspace": path.parent.name, "files": states.facts()}
    write_checksummed_json(path.with_suffix(".json"), {**asdict(outcome), **about})
    return outcome


class FileStates:
    """Sizes and modification times of files, which decide whether a shard of references is up to date.

    Objects in object storage have a size only: their versions are part of the facts that name a shard.
    """

    def __init__(self) -> None:
        self._found: dict[Path, tuple[int, int, int]] = {}
        self.states: dict[Path | RemotePath, ObjectState] = {}
        """Size of each file in bytes, and the version of an object."""

    def add(self, path: Path | RemotePath, span: FileSpan) -> None:
        """Record the state of a file, once; raises PipelineError if it does not exist any more."""
        if isinstance(path, RemotePath):
            self.states[path] = span.size.state if isinstance(span.size, ObjectBytes) else ObjectState(span.size, "")
        elif path not in self._found:
            if (state := _file_state(path)) is None:
                raise PipelineError(f"{path}: gone since it was listed. Run `index` again.")
            self._found[path], self.states[path] = state, ObjectState(state[0], "")

    def facts(self) -> list[list[Any]]:
        """Return the states as stored in a record."""
        return [[str(path), *state] for path, state in self._found.items()]


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def load_finished(path: Path) -> PackResult | None:
    """Return the result of a shard that is already packed and intact; its record is written last.

    The file is hashed again, because a damaged file, or one moved here from a workspace with other parameters, would be
    linked into the output. A shard of references is unfinished if one of its source files was touched since.
    """
    try:
        outcome = read_record(path)
        return outcome if outcome and sha256(path) == outcome.shard.sha256 else None
    except OSError:
        return None


def read_record(path: Path) -> PackResult | None:
    """Return the record of a finished shard, if the shard has the recorded size; its content is not read."""
    try:
        record = read_checksummed_json(path.with_suffix(".json"))
        workspace = record.pop("workspace", path.parent.name)  # records of an earlier version lack this field
        unchanged = all(_file_state(Path(name)) == tuple(state) for name, *state in record.pop("files", ()))
        shard, skipped = PackedShard(**record.pop("shard")), record.pop("skipped")
        outcome = PackResult(shard, tuple(SkippedSample(**skip) for skip in skipped), **record)
        own = (workspace, shard.name) == (path.parent.name, path.name)
        return outcome if own and unchanged and path.stat().st_size == shard.size else None
    except (CacheError, OSError, KeyError, TypeError, AttributeError):
        return None


class SampleReader:
    """Reads the samples of a job, and counts skipped ones."""

    def __init__(self, job: PackJob) -> None:
        self.job, self.entries = job, list(job.entries)  # a table makes its entries anew each time
        self.skipped: list[SkippedSample] = []
        self.captions = self.empty_captions = self.choices = 0

    def samples(self) -> Iterator[tuple[Entry, bytes | np.ndarray, Sample]]:
        """Yield each usable sample as packed, after its entry and its original image."""
        source = self.job.source
        loadings = source.load_in_order(self.entries)
        if _are_objects(self.entries):
            loadings = prefetch_map(partial(load_or_error, source.load), self.entries, REQUESTS, AHEAD)
        for entry, loading in zip(self.entries, loadings, strict=True):
            try:
                loaded = _loaded(loading)
                sample = self._sample(entry, loaded)
            except BadSampleError as error:
                self.skipped.append(SkippedSample(entry.key, entry.origin, str(error)))
            else:
                yield entry, loaded.image_data, sample

    def result(self, shard: PackedShard) -> PackResult:
        """Return the counts so far, with the given shard."""
        return PackResult(shard, tuple(self.skipped), self.captions, self.empty_captions, self.choices)

    def _sample(self, entry: Entry, loaded: LoadedSample) -> Sample:
        """Return a sample as packed.

        Raises:
            BadSampleError: no usable image, a missing caption, or a label without a class.
        """
        choices = loaded.choices
        texts = tuple(choice.caption for choice in choices) or loaded.captions or ()
        captions = clean_captions(texts)
        if choices and captions != texts:
            raise BadSampleError("a caption of its choices is empty, or has no UTF-8 form")
        if loaded.captions is not None and not captions:
            raise BadSampleError("its captions are empty" if texts else "no caption")
        if self.job.classes and (loaded.label is None or loaded.label >= self.job.classes):
            raise BadSampleError(f"its label is {loaded.label}, and there are {self.job.classes} classes")
        image = encode_for_packing(loaded.image_data, self.job.encoding)
        self.captions += len(captions)
        self.empty_captions += len(texts) - len(captions)
        self.choices += len(choices)
        return Sample(entry.key, image.data, image.extension, captions, loaded.label, entry.origin, choices)


def _are_objects(entries: Sequence[Entry]) -> bool:
    """Return whether each image is a separate object, so that many can be requested at once."""
    sizes = [member.size for entry in entries[:1] for member in entry.members]
    return any(isinstance(size, ObjectBytes) and size == size.whole for size in sizes)


def _loaded(loading: LoadedSample | BadSampleError) -> LoadedSample:
    if isinstance(loading, BadSampleError):
        raise loading
    return loading
