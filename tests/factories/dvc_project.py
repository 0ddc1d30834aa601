"""A project with its own DVC repository, and little in it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import cli
from pipeline.project.code_digest import ENTRY_MODULES, code_digest
from tests import ROOT
from tests.factories.fork_server import programs

STAGES = ("index", "pack", "embed", "moments", "whiten", "distill", "evaluate", "report")
"""The stages of the default run, in order."""
UNFINISHED = shutil.ignore_patterns("*.pyc.*", "*code_digests-*")
"""What another process may be writing beside the compiled modules, and renames."""


class DvcProject:
    """A copy of the project with a few dozen drawn images, its own params and its own DVC repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = folder / "params.yaml"

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; `python` and `dvc` are forks of a process that has loaded the libraries."""
        path = os.pathsep.join([str(programs()), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        made = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=800, check=False
        )
        if check and made.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {made.returncode}:\n{made.stdout}\n{made.stderr}")
        return made

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", "cli.py", *arguments, check=check)

    def cli_in_turn(self, *commands: str, before: str = "", python: str = "python") -> None:
        """Run commands of ours one after the other in one process; `sys.executable` is an interpreter of its own."""
        program = (
            f"{before}\nimport cli, sys\nfor line in sys.argv[1:]:\n    cli.app(line.split(), standalone_mode=False)"
        )
        self.run(python, "-c", program, *commands)

    def cli_here(self, *arguments: str) -> str:
        """Run a command of ours in this process, by this process's code, and return what it says."""
        said, environment = io.StringIO(), dict(os.environ)
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                cli.app(arguments, standalone_mode=False)
            finally:
                os.environ.clear()
                os.environ.update(environment)
        return said.getvalue()

    def set(self, key: str, value: object) -> None:
        """Change one dotted key of params.yaml."""
        document = yaml.safe_load(self.params.read_text(encoding="utf-8"))
        *folders, last = key.split(".")
        node = document
        for name in folders:
            node = node.setdefault(name, {})
        node[last] = value
        self.params.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def copy(self, folder: Path) -> DvcProject:
        """Return a copy of this project that a test may break; links stay links, so it costs little."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return DvcProject(folder)


def lay_out_dvc_project(folder: Path) -> DvcProject:
    """Lay out a project of 48 training images, 16 for validation and 20 badges; nothing has run in it yet."""
    for unit in ENTRY_MODULES:
        code_digest(unit)  # kept beside the compiled modules, and copied with them: no process has to parse the source
    for name in ("pipeline", "cache", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=UNFINISHED)
    for name in ("cli.py", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    project = DvcProject(folder)
    for key, value in {
        "index.train.images": 48,
        "index.val.images": 16,
        "index.badges.images": 20,
        "pack.shard_rows": 20,
        "runtime.workers": 0,
        "whiten.targets": ["raw", "zca"],
        "whiten.zca.floor": 0.1,
        "distill.students": ["mobilenetv3", "test_resnet"],
        "distill.test_resnet": {"learning_rate": 1e-3},
        "distill.targets": ["raw", "zca"],
        "distill.training.epochs": 1,
        "distill.training.batch": 16,
        "distill.training.image_size": 32,
    }.items():
        project.set(key, value)
    project.run("git", "init", "-q")
    project.run(sys.executable, "-m", "dvc", "init", "-q")  # many projects run nothing else of it
    return project
