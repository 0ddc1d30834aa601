"""Files are absent or whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cache import atomic
from cache.atomic import atomic_directory, atomic_write, link_or_copy, write_bytes, write_json, write_text
from cache.errors import WriteError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "folder" / "file", b"abc")
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"abc"
    assert names(tmp_path / "new" / "folder") == ["file"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_while_writing_keeps_the_old_file_and_removes_the_new(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_writer_that_forgets_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from cache.atomic import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")], cwd=Path(atomic.__file__).parent.parent, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == [f".file{atomic.TEMP_SUFFIX}"]
    write_text(tmp_path / "file", "whole")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "the right to write"),
        (errno.EROFS, "--root"),
        (errno.EIO, "check it"),
    ],
)
def test_a_disk_that_refuses_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(descriptor: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("cache.atomic.os.fsync", refuse)
    with pytest.raises(WriteError, match=advice) as caught:
        write_text(tmp_path / "file", "x")
    assert str(tmp_path / "file") in str(caught.value)
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    write_text(tmp_path / "folder", "a file")
    with pytest.raises(WriteError, match="A file stands where a folder is needed"):
        write_text(tmp_path / "folder" / "deeper" / "file", "x")


def test_a_limit_on_file_size_is_a_write_error_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from cache.atomic import write_bytes\n"
        "from cache.errors import WriteError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]), b'x' * 1001)\n"
        "except WriteError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")],
        cwd=Path(atomic.__file__).parent.parent,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "ulimit -f" in done.stdout
    assert names(tmp_path) == []


def test_errors_that_are_not_the_disk_s_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), atomic_write(tmp_path / "file"):
        raise ConnectionError("the network, not the disk")


def test_json_has_one_form(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [1.5, "é", None]})
    write_json(tmp_path / "b", {"a": [1.5, "é", None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text(encoding="utf-8") == '{\n "a": [\n  1.5,\n  "é",\n  null\n ],\n "b": 1\n}\n'


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"a": float("nan")})


def test_a_finished_file_is_linked_and_linking_twice_changes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "source", "x")
    for _ in range(2):
        link_or_copy(tmp_path / "source", tmp_path / "out" / "target")
    assert (tmp_path / "out" / "target").samefile(tmp_path / "source")
    assert names(tmp_path / "out") == ["target"]


def test_a_link_takes_the_place_of_an_older_file(tmp_path: Path) -> None:
    write_text(tmp_path / "source", "new")
    write_text(tmp_path / "target", "old")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "new"


def test_a_file_is_copied_where_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Any) -> NoReturn:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("cache.atomic.os.link", refuse)
    write_text(tmp_path / "source", "x")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "x"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


@pytest.mark.parametrize("path", [Path("/"), Path()])
def test_a_path_without_a_name_is_refused(path: Path) -> None:
    with pytest.raises(WriteError, match="names nothing that could be written"):
        write_text(path, "x")
    with pytest.raises(WriteError, match="names nothing that could be written"), atomic_directory(path):
        pass
