"""A fork of the server prints, fails and ends as a new interpreter does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.factories.fork_server import LIBRARIES, programs

pytestmark = pytest.mark.process


def ran(python: str | Path, *arguments: str, **options: Any) -> tuple[int, str, str]:
    made = subprocess.run([python, *arguments], capture_output=True, text=True, check=False, timeout=60, **options)
    return made.returncode, made.stdout, made.stderr


def both(*arguments: str, **options: Any) -> tuple[int, str, str]:
    """Return what a fork does, after checking that an interpreter does the same."""
    fork = ran(programs() / "python", *arguments, **options)
    assert fork == ran(sys.executable, *arguments, **options)
    return fork


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("print(1)", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('words')", 1),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0),
        ("import sys; print(sys.argv, sys.path[0], __name__, file=sys.stderr)", 0),
        ("print(sorted(name for name in globals() if not name.startswith('__')))", 0),
        ("import subprocess as s; print(s.run(['false']).returncode)", 0),  # its own children are its own to wait for
    ],
)
def test_a_program_prints_and_ends_as_in_an_interpreter(program: str, code: int) -> None:
    assert both("-c", program, "an argument")[0] == code


def test_an_error_that_nobody_catches_ends_it_with_its_traceback() -> None:
    code, _, words = ran(programs() / "python", "-c", "{}['key']")
    assert code == 1
    assert words.startswith("Traceback")
    assert words.endswith("KeyError: 'key'\n")


def test_a_fork_that_is_killed_or_cannot_start_fails() -> None:
    assert ran(programs() / "python", "-c", "import os; os.kill(os.getpid(), 9)")[0] != 0
    assert ran(programs() / "python", "nowhere.py")[0] != 0


def test_files_and_modules_have_their_folder_streams_and_environment(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import sys; print(__name__, sys.argv[1:])")
    (tmp_path / "script.py").write_text(
        "import os, sys, beside; print(os.getcwd(), os.environ['WORD'], sys.stdin.read(), __file__, __name__)"
    )
    options = {"cwd": tmp_path, "input": "read", "env": {**os.environ, "WORD": "said"}}
    assert both(str(tmp_path / "script.py"), "x", **options)[1].split()[-3:] == [
        "read",
        f"{tmp_path}/script.py",
        "__main__",
    ]
    assert both("-m", "beside", "x", **options)[1] == "__main__ ['x']\n"


def test_forks_have_the_libraries_and_none_of_our_modules() -> None:
    shown = ran(programs() / "python", "-c", "import sys; print(*sys.modules)")[1].split()
    assert set(LIBRARIES) <= set(shown)
    assert [name for name in shown if name.split(".")[0] in {"cache", "pipeline", "cli", "tests"}] == []
