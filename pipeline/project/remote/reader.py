"""Read parts of an object: one request for what is asked here and there, large ones for what follows in order."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

from pipeline.project.errors import PipelineError
from pipeline.project.remote.objects import ObjectState, object_state, read_range
from pipeline.project.remote.paths import RemotePath

SMALLEST_WINDOW, LARGEST_WINDOW = 1 << 18, 8 << 20
"""Bytes: a request of 256 KB takes little longer than one of a photo; 8 MB are read at the speed of the line."""
READERS = 4
"""That are kept open in a process: of the tars that one shard is packed from."""


class RangeReader:
    """An object of known state. Where what is read follows what was read before, more of it is read ahead each time.

    What is read ahead is compared with the state: an object that was replaced meanwhile is named.
    """

    def __init__(self, path: RemotePath, state: ObjectState) -> None:
        self.path, self.state = path, state
        self.at = 0
        self._data, self._start, self._end, self._window = b"", 0, 0, 0
        self._lock = Lock()

    def read_at(self, offset: int, size: int) -> bytes:
        """Return some bytes; fewer where the object ends.

        Raises:
            FileNotFoundError: it is gone.
            PipelineError: it was replaced since it was listed, or cannot be read.
        """
        with self._lock:
            end = min(offset + size, self.state.size)
            if not self._start <= offset <= end <= self._start + len(self._data):
                self._fetch(offset, end)
            self._end = end
            return self._data[offset - self._start : end - self._start]

    def read(self, size: int) -> bytes:
        """Return the next bytes, as a file does."""
        data = self.read_at(self.at, size)
        self.at += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Let the next bytes be those from here on."""
        self.at = offset

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
    """Return the reader of this state of an object, the same each time: it goes on where it was."""
    return RangeReader(path, state)
