"""Which files of the source three stages run through, on a small sample, under a tracer.

A walk is what a reader follows: the functions of `cache/` and `pipeline/` that a stage calls in its main thread, in
the order of their first calls; what runs while a module is imported defines things and is no part of it. *Files* are
the modules they stand in, *returns* the times the walk comes back to a file that it had left, and *calls back* the
edges from a module to one that is waiting for it further up the stack.

As a program, this runs one command of a checkout under the tracer: `benchmarks/house.py --walks` starts it.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType


@dataclass(frozen=True)
class Walk:
    """The modules that a command runs through, each as often as a function of it is called for the first time."""

    modules: list[str]
    calls_back: list[tuple[str, str]]
    """(module, module further up the stack that it calls)."""

    @property
    def files(self) -> int:
        """Distinct modules."""
        return len(set(self.modules))

    @property
    def returns(self) -> int:
        """Times the walk comes back to a file."""
        changes = [name for i, name in enumerate(self.modules) if i == 0 or name != self.modules[i - 1]]
        return len(changes) - self.files


class Tracer:
    """Records first calls of functions below `cache/` and `pipeline/` of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = f"{root.resolve()}/"
        self.packages = (f"{self.root}cache/", f"{self.root}pipeline/")
        self.seen: set[object] = set()
        self.modules: list[str] = []
        self.calls_back: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Take part as a profile function."""
        if event != "call" or frame.f_code in self.seen or (module := self._module(frame)) is None:
            return
        if self._is_importing(frame.f_back):
            return
        self.seen.add(frame.f_code)
        self.modules.append(module)
        above = [name for name in self._stack(frame.f_back) if name is not None]
        if above and above[0] != module and module in above:
            self.calls_back.add((above[0], module))

    def _module(self, frame: FrameType) -> str | None:
        path, code = frame.f_code.co_filename, frame.f_code.co_name
        name = path.removeprefix(self.root)
        own = name != path and name.startswith(("cache/", "pipeline/"))
        return name if own and not code.startswith("<") and frame.f_code.co_flags & CO_OPTIMIZED else None

    def _is_importing(self, frame: FrameType | None) -> bool:
        """Return whether a module of the checkout is being imported further up the stack."""
        while frame is not None:
            if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(self.packages):
                return True
            frame = frame.f_back
        return False

    def _stack(self, frame: FrameType | None) -> Iterator[str | None]:
        while frame is not None:
            yield self._module(frame)
            frame = frame.f_back


def trace(root: Path, arguments: list[str]) -> None:
    """Run a command of a checkout under the tracer, and print its walk as JSON on the last line."""
    tracer = Tracer(root)
    sys.argv, sys.path[0] = ["cli.py", *arguments], str(root)
    sys.setprofile(tracer)
    try:
        runpy.run_path(str(root / "cli.py"), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    print(json.dumps({"modules": tracer.modules, "calls_back": sorted(tracer.calls_back)}))


SETS = ("index.train.images=200", "index.val.images=60", "distill.training.epochs=2")
WALKS = {
    "embed a split": ["embed", "--split", "badges"],
    "train an arm": ["distill", "--student", "resnet-tiny", "--target", "zca"],
    "evaluate an arm": ["evaluate", "--student", "resnet-tiny", "--target", "zca"],
}


def measure_walks(root: Path, sets: tuple[str, ...] = SETS) -> dict[str, Walk]:
    """Run the sample's stages in a temporary folder, three of them under the tracer."""
    walks = {}
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--root={folder}", *(f"--set={each}" for each in sets)]

        def run(arguments: list[str], traced: bool) -> str:
            script = [str(Path(__file__).resolve()), str(root)] if traced else ["cli.py"]
            command = [sys.executable, *script, *arguments, *options]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
            return done.stdout

        for arguments in (["index"], ["pack"], ["embed", "--split", "train"], ["embed", "--split", "val"]):
            run(arguments, False)
        for name, arguments in WALKS.items():
            if name == "train an arm":
                for before in (["moments"], ["whiten"]):
                    run(before, False)
            walks[name] = Walk(**json.loads(run(arguments, True).splitlines()[-1]))
    return walks


if __name__ == "__main__":
    trace(Path(sys.argv[1]), sys.argv[2:])
