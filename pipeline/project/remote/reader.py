"""Read parts of an object: small requests for random access, growing ones for sequential access."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

from pipeline.project.errors import PipelineError
from pipeline.project.remote.objects import ObjectState, object_state, read_range
from pipeline.project.remote.paths import RemotePath

SMALLEST_WINDOW, LARGEST_WINDOW = 1 << 18, 8 << 20
"""In bytes: a request of 256 KB takes little longer than one of a photo; 8 MB are read at full bandwidth."""
READERS = 4
"""Open readers per process: one for each tar of a shard."""


class RangeReader:
    """An object of known state. Sequential reads are prefetched in growing windows.

    Prefetched data are compared with the state; a replaced object is an error.
    """

    def __init__(self, path: RemotePath, state: ObjectState) -> None:
        self.path, self.state = path, state
        self._data, self._start, self._end, self._window = b"", 0, 0, 0
        self._lock = Lock()

    def read_at(self, offset: int, size: int) -> bytes:
        """Return some bytes; fewer at the end of the object.

        Raises:
            FileNotFoundError: it does not exist any more.
            PipelineError: it was replaced since it was listed, or cannot be read.
        """
        with self._lock:
            end = min(offset + size, self.state.size)
            if end <= offset:  # a damaged tar leads beyond the object, where a server would answer with all of it
                return b""
            if not self._start <= offset <= end <= self._start + len(self._data):
                self._fetch(offset, end)
            self._end = end
            return self._data[offset - self._start : end - self._start]

    def _fetch(self, offset: int, end: int) -> None:
        follows = self._end <= offset <= self._end + SMALLEST_WINDOW
        self._window = min(max(2 * self._window, SMALLEST_WINDOW), LARGEST_WINDOW) if follows else 0
        stop = min(max(end, offset + self._window), self.state.size)
        kept = self._data[offset - self._start :] if self._start <= offset <= self._start + len(self._data) else b""
        self._data, self._start = kept + read_range(self.path, offset + len(kept), stop - offset - len(kept)), offset
        if self._window > SMALLEST_WINDOW:
            self._check_state()

    def _check_state(self) -> None:
        found = object_state(self.path)
        if found.size != self.state.size or self.state.version not in ("", found.version):
            raise PipelineError(
                f"{self.path}: replaced since it was listed ({found.size} bytes, version {found.version!r}; "
                f"{self.state.size} bytes, version {self.state.version!r} were listed). Run `index` again."
            )


@lru_cache(maxsize=READERS)
def open_reader(path: RemotePath, state: ObjectState) -> RangeReader:
    """Return the reader of this state of an object, cached so that it keeps its position."""
    return RangeReader(path, state)
