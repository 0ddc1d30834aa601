"""Programs that tests keep as text are not seen by mypy: what they import from the project must exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT

IMPORT = re.compile(r"^\s*from ((?:pipeline|cache|tests|benchmarks)[\w.]*) import ([\w, ]+)$", re.MULTILINE)
MADE_UP = (
    "tests/project/test_code_digest.py",
    "tests/benchmarks/test_house.py",
    "tests/contract/test_programs_in_strings.py",
)
"""Tests whose text is a package of their own, and this one's control."""


def imports_in_strings(source: str) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import of the project in a string of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for module, names in IMPORT.findall(node.value):
                yield from ((module, name.split(" as ")[0].strip()) for name in names.split(","))


def exists(module: str, name: str) -> bool:
    """Return whether `from module import name` works."""
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def test_what_programs_in_strings_import_exists() -> None:
    modules = [path for folder in ("tests", "benchmarks", "pipeline") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {
        (path.relative_to(ROOT).as_posix(), *each)
        for path in modules
        if path.relative_to(ROOT).as_posix() not in MADE_UP
        for each in imports_in_strings(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 20  # control: programs are found
    assert not [each for each in found if not exists(*each[1:])]


def test_a_stale_name_would_be_found() -> None:
    program = 'PROGRAM = """\nfrom pipeline.distill import distill, undistill\n"""'
    assert [exists(*each) for each in imports_in_strings(program)] == [True, False]
    assert not exists("pipeline.no_such", Path.__name__)
