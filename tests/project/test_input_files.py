"""Files from outside are regular and of a bounded size, or one line says what they are."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipeline.project.input_files import read_input, require_regular


def refusal(path: Path, limit: int = 1 << 20) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011  what is asked for is its text
        read_input(path, limit)
    return str(caught.value.strerror)


def test_a_file_is_read_whole_and_not_beyond_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert read_input(path, 10) == b"0123456789"
    assert "10 bytes, more than the 9" in refusal(path, 9)
    (tmp_path / "link").symlink_to(path)
    assert read_input(tmp_path / "link", 10) == b"0123456789"


def test_what_never_ends_or_never_begins_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe, expected a regular file" in refusal(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="expected a regular file"):
            require_regular(path)
    assert "a device" in refusal(Path("/dev/zero"))
    assert refusal(tmp_path) == "Is a directory"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert refusal(tmp_path / "s")
    assert refusal(tmp_path / "none") == "No such file or directory"
    assert refusal(tmp_path / ("x" * 5000)) == "File name too long"


def test_files_of_the_kernel_that_say_they_are_empty_are_not_waited_for() -> None:
    if Path("/proc/self/status").exists():
        assert read_input(Path("/proc/self/status"), 1 << 20) == b""
