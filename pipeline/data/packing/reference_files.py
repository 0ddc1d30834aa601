"""Read the files that shards of references refer to: on a disk one after the other, in object storage many at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from cache.errors import MissingError
from pipeline.data.prefetch import prefetch_map
from pipeline.project.remote.objects import ObjectState, object_state, read_range
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.reader import SMALLEST_WINDOW, RangeReader

AGAIN = "Put the file back, or run `index` and `pack` again."
REQUESTS, AHEAD = 16, 64
"""Concurrent requests to object storage, and requests made in advance."""
ReferencedFiles = Sequence[Path | RemotePath]


class Span(NamedTuple):
    """A span of bytes in one of several files, by its number."""

    file: int
    offset: int
    size: int


def file_states(files: ReferencedFiles) -> Iterator[ObjectState]:
    """Yield the size of each file, or the state of an object; raises MissingError, RemoteError."""
    yield from prefetch_map(_state, files, REQUESTS if _is_remote(files) else 0, AHEAD)


def read_spans(files: ReferencedFiles, spans: Sequence[Span]) -> Iterator[bytes]:
    """Yield some spans of files, as long as they are now; a file is kept open while they lie in it.

    Spans that follow each other in an object of object storage are read ahead; others, of which each costs the time of
    a request, are asked for many at once.

    Raises:
        MissingError: a file is gone, or cannot be read.
        RemoteError: object storage denies access, or does not answer.
    """
    if not _is_remote(files):
        yield from _read_local(files, spans)
    elif _in_order(spans):
        yield from _read_in_order(files, spans)
    else:
        yield from prefetch_map(lambda span: _read_alone(files[span.file], span), spans, REQUESTS, AHEAD)


def _is_remote(files: ReferencedFiles) -> bool:
    return any(isinstance(path, RemotePath) for path in files)


def _in_order(spans: Sequence[Span]) -> bool:
    """Return whether most spans follow the one before them closely in the same file."""
    gaps = (other.offset - one.offset - one.size for one, other in pairwise(spans) if one.file == other.file)
    following = sum(0 <= gap <= SMALLEST_WINDOW for gap in gaps)
    return 2 * following > len(spans)


def _read_local(files: ReferencedFiles, spans: Sequence[Span]) -> Iterator[bytes]:
    opened, file = -1, -1
    with ExitStack() as stack:
        for span in spans:
            path = files[span.file]
            try:
                if span.file != opened:
                    stack.close()
                    opened, file = span.file, os.open(str(path), os.O_RDONLY | os.O_NONBLOCK)
                    stack.callback(os.close, file)
                data = os.pread(file, span.size, span.offset)
            except OSError as error:
                raise _missing(path, error) from None
            yield data


def _read_in_order(files: ReferencedFiles, spans: Sequence[Span]) -> Iterator[bytes]:
    readers: dict[int, RangeReader] = {}
    for span in spans:
        path = files[span.file]
        if isinstance(path, Path):
            yield _read_alone(path, span)
            continue
        try:
            if span.file not in readers:
                readers[span.file] = RangeReader(path, ObjectState(object_state(path).size, ""))
            data = readers[span.file].read_at(span.offset, span.size)
        except OSError as error:
            raise _missing(path, error) from None
        yield data


def _read_alone(path: Path | RemotePath, span: Span) -> bytes:
    if isinstance(path, Path):
        return next(_read_local([path], [span._replace(file=0)]))
    try:
        return read_range(path, span.offset, span.size)
    except OSError as error:
        raise _missing(path, error) from None


def _state(path: Path | RemotePath) -> ObjectState:
    try:
        return ObjectState(path.stat().st_size, "") if isinstance(path, Path) else object_state(path)
    except OSError as error:
        raise _missing(path, error) from None


def _missing(path: Path | RemotePath, error: OSError) -> MissingError:
    return MissingError(f"{path}: packed by reference, and cannot be read any more: {error.strerror}. {AGAIN}")
