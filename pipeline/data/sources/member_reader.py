"""Read members of tars, of which the last one stays open while samples are read in order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.data.sources.listing import FileSpan
from pipeline.project.errors import PipelineError
from pipeline.project.remote.objects import ObjectBytes
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.reader import open_reader


@contextmanager
def open_members(folder: Path | RemotePath) -> Iterator[MemberReader]:
    """Yield a reader of the tars in a folder, and close the tar that it left open."""
    reader = MemberReader(folder)
    try:
        yield reader
    finally:
        reader.close()


class MemberReader:
    """Members of the tars in one folder."""

    def __init__(self, folder: Path | RemotePath) -> None:
        self.folder = folder
        self._tar, self._descriptor = "", -1

    def close(self) -> None:
        """Close the tar that is open, if one is."""
        if self._tar:
            os.close(self._descriptor)
            self._tar = ""

    def read(self, members: Sequence[FileSpan]) -> list[bytes]:
        """Return the bytes of adjacent members of one tar.

        In object storage they are one request. On a disk the first, the image, is read by itself, so that it need not
        be copied out of a longer piece.

        Raises:
            PipelineError: the tar does not exist any more, is shorter, or was replaced.
        """
        if isinstance(self.folder, RemotePath):
            return self._read_together(members)
        image, *texts = members
        return [self._read_span(image, image.offset, image.size), *self._read_together(texts)]

    def _read_together(self, members: Sequence[FileSpan]) -> list[bytes]:
        if not members:
            return []
        start = min([member.offset for member in members])
        end = max([member.offset + member.size for member in members])
        data = self._read_span(members[0], start, end - start)
        return [data[member.offset - start : member.offset - start + member.size] for member in members]

    def _read_span(self, member: FileSpan, start: int, size: int) -> bytes:
        try:
            if isinstance(self.folder, RemotePath):
                listed = member.size if isinstance(member.size, ObjectBytes) else ObjectBytes(start + size)
                data = open_reader(self.folder / member.file, listed.state).read_at(start, size)
            else:
                data = os.pread(self._open(member.file), size, start)
        except OSError as error:
            path = self.folder / member.file
            raise PipelineError(f"{path}: cannot be read any more: {error.strerror}. Run `index` again.") from None
        if len(data) != size:
            raise PipelineError(f"{self.folder / member.file}: shorter than it was. Run `index` again.")
        return data

    def _open(self, tar: str) -> int:
        """Return the descriptor of a tar on a disk."""
        if tar != self._tar:
            self.close()
            self._descriptor, self._tar = os.open(f"{self.folder}/{tar}", os.O_RDONLY | os.O_CLOEXEC), tar
        return self._descriptor
