"""Write tars (ustar) whose bytes depend on nothing but names and contents: no time, no owner, one mode."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

BLOCK = 512
BUFFER_BYTES = 1 << 18
_ZEROS = bytes(BLOCK)
_HEADER_END = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\x00" + bytes(167)
_HEADER_SUM = sum(_HEADER_END) + sum(b"        ")  # of a header's constant part; its sum itself counts as blanks


class TarWriter:
    """A tar being written, hashed on its way to the disk."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Write one file."""
        for part in (_header(name, len(data)), data, _ZEROS[: -len(data) % BLOCK]):
            self._write(part)

    def close(self) -> None:
        """Write the end mark: two empty blocks."""
        self._write(bytes(2 * BLOCK))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.sha256.update(data)
        self.size += len(data)


def _header(name: str, size: int) -> bytes:
    """Return a ustar header: mode 0644, owner 0, time 0."""
    if len(name) > 100:
        raise ValueError(f"{name}: longer than a tar header's name")
    head = name.encode("ascii").ljust(100, b"\0") + b"0000644\x000000000\x000000000\x00%011o\x0000000000000\x00" % size
    return head + b"%06o\0 " % (sum(head) + _HEADER_SUM) + _HEADER_END
