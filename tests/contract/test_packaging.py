"""What is installed: every import is declared, the lock satisfies the ranges, and the wheel holds every file."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
OWN = {"cache", "pipeline", "cli", "tests", "benchmarks"}
PROVIDERS = functools.cache(packages_distributions)  # it reads the list of files of every distribution
OPTIONAL = {"wandb", "openvino", "executorch"}
"""Imported where somebody asks for them; extras/*.txt pins them."""
CLOUD = {"aiohttp"}
"""Imported where an address asks for it; the extra `cloud` declares it."""
PEERS = {"open_clip_train", "clip_retrieval"}
"""Programs that a benchmark compares with; its first lines say how to install them."""


def third_party(*places: str) -> set[str]:
    """Return the top-level names that files below some places import, but for our own and the standard library."""
    paths = [p for place in places for p in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))]
    nodes = list(chain.from_iterable(ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in paths))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - OWN - programs


def undeclared(imports: set[str], declared: list[Requirement]) -> list[str]:
    """Return the imports that no declared distribution provides."""
    providers, names = PROVIDERS(), {canonicalize_name(one.name) for one in declared}
    return sorted(name for name in imports if not names & {canonicalize_name(d) for d in providers.get(name, ())})


def test_every_import_of_the_product_is_a_declared_dependency() -> None:
    imports = third_party("cli.py", "cache", "pipeline") - OPTIONAL - CLOUD
    assert undeclared(imports, RUNTIME) == []
    assert undeclared(imports, RUNTIME[1:]) != []  # negative control


def test_every_import_of_tests_and_benchmarks_is_declared_too() -> None:
    declared = [*RUNTIME, *chain.from_iterable(EXTRAS.values())]
    assert undeclared(third_party("tests", "benchmarks") - OPTIONAL - PEERS, declared) == []


def test_the_library_needs_no_development_tools() -> None:
    assert not {one.name for one in RUNTIME} & {one.name for one in EXTRAS["dev"]}


def test_the_lock_satisfies_every_range() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(name): version for name, version in (re.split("==| ;", line)[:2] for line in lines)}
    for one in [*RUNTIME, *chain.from_iterable(EXTRAS.values())]:
        assert pins[canonicalize_name(one.name)] in one.specifier, f"{one}: `make lock` makes requirements.txt anew"
    assert "1.0" not in next(one for one in RUNTIME if one.name == "numpy").specifier  # negative control


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of a copy of the source, and unpack it where nothing else is."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.check_output(
        ["git", "ls-files", "cache", "pipeline", "cli.py", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        text=True,
    )
    for name in tracked.splitlines():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, folder, folder / "source"], check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("wclip_kd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(installed: Path) -> None:
    tracked = subprocess.check_output(["git", "ls-files", "cache", "pipeline", "cli.py"], cwd=ROOT, text=True)
    found = [p.relative_to(installed) for p in installed.rglob("*") if p.is_file()]
    assert sorted(p.as_posix() for p in found if not p.parts[0].endswith(".dist-info")) == sorted(tracked.splitlines())
    assert {"cache/py.typed", "pipeline/py.typed"} <= set(tracked.splitlines())


def test_the_installed_library_and_command_work_in_another_folder(installed: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv = ['wclip-kd', '--version']; import cli, cache\n"
        "from pipeline.reporting.page import render\n"
        "assert cli.__file__.startswith(sys.path[0]) and cache.__file__.startswith(sys.path[0])\n"
        "assert '</html>' in render('a page', '', [], [])\n"
        "cli.main()"
    )
    command = [sys.executable, "-I", "-c", program, str(installed)]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout == f"wclip-kd {PROJECT['version']}\n"


def test_the_shell_completes_commands_options_and_names() -> None:
    program = "import sys; sys.argv = ['wclip-kd']; import cli; cli.main()"
    for words, expected in (
        ("wclip-kd emb", ["embed"]),
        ("wclip-kd embed --spl", ["--split"]),
        ("wclip-kd embed --split v", ["val"]),
        ("wclip-kd embed --params presets/coco.yaml --split c", ["cifar10"]),
        ("wclip-kd embed --params no.yaml --split v", []),
    ):
        asked = {"_WCLIP_KD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", program]
        shown = subprocess.run(command, cwd=ROOT, env=asked, capture_output=True, text=True, check=False, timeout=120)
        assert shown.stdout.split() == expected
