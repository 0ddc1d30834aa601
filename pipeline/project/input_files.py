"""The one door for files that come from outside: regular files of a bounded size, read whole.

A pipe would wait for ever, /dev/zero never ends, and some files of /proc wait for the next event.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_DOCUMENT_BYTES = 8 << 20
"""Of parameters, label lists and cards: ten times the longest that we know of."""
MAX_CAPTIONS_BYTES = 4 << 30
"""Of captions and of embeddings' tables: CC12M's are 2.5 GB."""
MAX_IMAGE_BYTES = 512 << 20
"""Of one image: as many bytes as the largest that is decoded has uncompressed."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_input(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes, never more than it had when it was opened.

    Raises:
        OSError: no such file, no right to read it, no regular file, or a longer one; `strerror` says which.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        _require_regular(status, path)
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, more than the {limit} that are read of it", str(path))
        data = file.read(status.st_size)
        while len(data) < status.st_size and (more := file.read(status.st_size - len(data))):
            data += more  # Linux reads at most 2 GB at once
        return data


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting until somebody writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def require_regular(path: Path) -> None:
    """Refuse a path that a library is about to open by itself.

    Raises:
        OSError: no such file, or no regular one; `strerror` says which.
    """
    _require_regular(path.stat(), path)


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"{what}, expected a regular file", str(path))
