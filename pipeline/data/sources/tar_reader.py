"""Read the headers of an untrusted tar.

Python's reader, which WebDataset uses, takes a tar that is truncated at a header for a shorter one. This reader
requires the end marker, every checksum, and regular files with safe names; it reads headers, never contents.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.sources.listing import FileSpan
from pipeline.project.errors import PipelineError
from pipeline.project.input_files import require_regular
from pipeline.project.remote.objects import ObjectBytes, object_state
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.reader import RangeReader

BLOCK = 512
MAX_HEADER_BYTES = 1 << 20
"""Longer names or extended headers are refused."""
_WINDOW = 1 << 13
"""Bytes read at once: after an image, the headers and the texts up to the next image."""
_EMPTY = bytes(BLOCK)

_FILE, _FOLDER, _LONG_NAME, _EXTENDED, _GLOBAL = (b"0", b"\0"), b"5", b"L", b"x", b"g"
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_TIME = re.compile(rb"(\d\d) mtime=[\d.]+\n")
"""All that an extended header of WebDataset's writer has."""
_USED_RECORDS = (b"path", b"size")
_PLAIN_NAME = re.compile(rb"[\w-][\w.-]*")
"""Names without folders and without anything to check."""


class BadTarError(PipelineError):
    """A damaged or malicious tar; the message names it."""


def tar_members(folder: Path | RemotePath, name: str, listed: int = 0) -> Iterator[FileSpan]:
    """Yield the files of a tar, in order; `extension` is their whole name.

    An object in object storage is read ahead in parts, on the state that it was `listed` in.

    Raises:
        BadTarError: truncated, damaged, a link, a device, or an unsafe name.
    """
    path = folder / name
    try:
        if isinstance(path, RemotePath):
            state = listed.state if isinstance(listed, ObjectBytes) else object_state(path)
            yield from _TarScanner(path, name, RangeReader(path, state), state.size).members()
            return
        require_regular(path)
        with path.open("rb", buffering=0) as file:
            yield from _TarScanner(path, name, _FileWindow(file.fileno()), os.fstat(file.fileno()).st_size).members()
    except OSError as error:
        raise BadTarError(f"{path}: cannot be read: {error.strerror}") from None


class _FileWindow:
    """An open file, of which adjacent parts are read together."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._data, self._start = descriptor, b"", 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return some bytes; fewer at the end of the file."""
        at = offset - self._start
        if not 0 <= at <= len(self._data) - size:
            self._data, self._start, at = os.pread(self._descriptor, max(size, _WINDOW), offset), offset, 0
        return self._data[at : at + size]


class _TarScanner:
    """One pass over the headers of one tar."""

    def __init__(self, path: Path | RemotePath, name: str, file: _FileWindow | RangeReader, size: int) -> None:
        self.path, self.name, self.file, self.size = path, name, file, size
        self.at = 0
        self._time_header, self._time_size = b"", 0
        """The last extended header of a time alone, and the size of its record: in most tars, others have its bytes."""

    def members(self) -> Iterator[FileSpan]:
        extended: dict[str, bytes] = {}
        while (head := self._header()) is not None:
            kind, size = head[156:157], self._size(head, extended)
            content = self.at
            if content + size > self.size:
                beyond = content + size - self.size
                raise self._bad(f"cut short: {_readable(head[:100])} reaches {beyond} bytes beyond the end")
            if kind in _FILE:
                name = self._name(head, extended)
                if not name.endswith("/"):
                    yield FileSpan(self.name, name, content, size)
            elif kind in (_LONG_NAME, _EXTENDED):
                extended = self._extended(kind, size, extended)
                if kind == _EXTENDED and self._is_time(size):
                    self._time_header, self._time_size = head, size
            elif kind not in (_FOLDER, _GLOBAL):
                what = _KINDS.get(kind, f"of kind {kind!r}")
                raise self._bad(f"{_readable(head[:100])} is {what}; expected files only")
            if kind not in (_LONG_NAME, _EXTENDED):
                extended = {}
            self.at = content + -(-size // BLOCK) * BLOCK
        self._check_end()

    def _header(self) -> bytes | None:
        """Return the next header, or None at the end marker."""
        head = self.file.read_at(self.at, BLOCK)
        if head == self._time_header:
            self.at += BLOCK
            if self._is_time(self._time_size):  # nothing to use: on to the member's own header
                self.at += BLOCK
                head = self.file.read_at(self.at, BLOCK)
            else:
                self.at -= BLOCK
        if len(head) < BLOCK:
            if self.at == 0:
                raise self._bad(f"no tar: it has {len(head)} bytes")
            raise self._bad(f"cut short: no end mark after {self.at + len(head)} bytes")
        self.at += BLOCK
        if head == _EMPTY:
            return None
        if _octal(head[148:156]) != _sum_of_bytes(head) - sum(head[148:156]) + 8 * ord(" "):
            raise self._bad(f"no tar header at byte {self.at - BLOCK}: not a tar (compressed?), or damaged")
        return head

    def _check_end(self) -> None:
        """Require a second empty block, and only zeros after it."""
        rest = self.size - self.at
        if rest < BLOCK:
            raise self._bad(f"cut short: half an end mark at byte {self.at - BLOCK}")
        while block := self.file.read_at(self.at, 1 << 20):
            self.at += len(block)
            if block.strip(b"\0"):
                raise self._bad("something follows its end mark: two tars in one file?")

    def _size(self, head: bytes, extended: dict[str, bytes]) -> int:
        field = head[124:136]
        size = int.from_bytes(field[1:]) if field[0] == 0x80 else _octal(field)
        if (extended_size := extended.get("size")) is not None:
            size = int(extended_size) if extended_size.isdigit() and len(extended_size) < 20 else None
        if size is None:
            raise self._bad(f"{_readable(head[:100])} has no readable size")
        return size

    def _name(self, head: bytes, extended: dict[str, bytes]) -> str:
        raw = head[:100].rstrip(b"\0")
        if "path" not in extended and head[345:500] == _EMPTY[345:500] and _PLAIN_NAME.fullmatch(raw):
            return raw.decode("ascii")
        if head[257:263] == b"ustar\0" and (prefix := head[345:500].rstrip(b"\0")):
            raw = prefix + b"/" + raw
        name = os.fsdecode(extended.get("path", raw)).removeprefix("./")
        parts = name.split("/")
        if not name or name.startswith("/") or ".." in parts or "\0" in name:
            raise self._bad(f"the name {name!r} leads elsewhere")
        if name.lower().startswith("pipe:"):
            raise self._bad(f"the name {name!r} is a command to WebDataset")
        return name

    def _is_time(self, size: int) -> bool:
        """Return whether the extended header whose content lies here says nothing but a time."""
        record = _TIME.fullmatch(self.file.read_at(self.at, size))
        return record is not None and int(record[1]) == size

    def _extended(self, kind: bytes, size: int, before: dict[str, bytes]) -> dict[str, bytes]:
        """Return the content of an extended header about the next member."""
        if size > MAX_HEADER_BYTES:
            raise self._bad(f"an extended header of {size} bytes")
        data = self.file.read_at(self.at, size)
        if kind == _LONG_NAME:
            return {**before, "path": data.rstrip(b"\0")}
        records, at = dict(before), 0
        while at < len(data):
            record = _RECORD.match(data, at)
            end = at + int(record[1]) if record else 0
            if record is None or end <= record.end() or end > len(data):
                raise self._bad("an extended header that cannot be read")
            if (name := record[2]) in _USED_RECORDS:
                records[name.decode()] = data[record.end() : end - 1]
            at = end
        return records

    def _bad(self, what: str) -> BadTarError:
        return BadTarError(f"{self.path}: {what}. Fetch it again, or take it out of the folder.")


def _sum_of_bytes(head: bytes) -> int:
    """Return the sum of a header's 512 bytes.

    The low half of Adler-32 is 1 + the sum of the bytes modulo 65521, which 256 bytes never reach; both calls take a
    tenth of the time of `sum`.
    """
    return (zlib.adler32(head[:256]) & 0xFFFF) + (zlib.adler32(head[256:]) & 0xFFFF) - 2


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else None


def _readable(name: bytes) -> str:
    return repr(os.fsdecode(name.rstrip(b"\0")))
