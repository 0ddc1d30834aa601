"""Figures of the code base: sizes of modules and functions, ambiguous names, and files opened by three stages.

    python benchmarks/house.py                     the static figures of this checkout
    python benchmarks/house.py --root DIR          those of another checkout, of any version
    python benchmarks/house.py --walks             also runs three stages on a small sample, under a tracer

A walk is what a reader follows: the functions of `cache/` and `pipeline/` that a stage calls in its main thread, in
the order of their first calls; what runs while a module is imported defines things and is no part of it. *Files* are
the modules they stand in, *returns* the times the walk comes back to a file that it had left, and *calls back* the
edges from a module to one that is waiting for it further up the stack.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent.parent
SMALL, LONG = 50, 40
IRREGULAR = "said told seen learnt sent held kept made known drawn chosen found taken given shown built spoken begun"
NOUNS = {"Seed", "Speed", "Feed", "Embed", "Need"}
"""Words in -ed that are no participles."""
SHARED_NAMES = {"score": "of each metric: `METRICS` of pipeline/evaluate.py maps names to them"}
"""Names that mean the same thing in every module: an interface, and what reads it."""
SMALL_WITH_A_REASON = {
    "pipeline/__init__.py": "the version",
    "pipeline/whiten.py": "a stage",
    "pipeline/commands/audit_choices.py": "loads torch, which the rest of `audit` does without",
    "pipeline/reporting/sections/cost.py": "a section of the report",
}
"""Modules below 50 lines that fewer than two others import, and why they stand alone."""
COPIED = {"pipeline/deployment/example.py", "pipeline/deployment/hub/modeling.py"}
"""Programs that are written beside an export and never imported: their names are their own."""


@dataclass(frozen=True)
class House:
    """What the source of a checkout consists of."""

    lines: dict[str, int]
    """By module, without packages' `__init__.py` that hold a docstring only."""
    functions: list[tuple[str, str, int]]
    """Module, name and lines without the docstring."""
    definitions: dict[str, set[str]]
    """Modules that define a public class or function at their top level, by its name."""
    importers: dict[str, set[str]]
    """Modules that import a module, by its path."""

    @property
    def small_modules(self) -> list[str]:
        """Modules below 50 lines."""
        return sorted(path for path, count in self.lines.items() if count < SMALL)

    @property
    def fragments(self) -> list[str]:
        """Small modules without a second importer or a reason to stand alone."""
        alone = [path for path in self.small_modules if len(self.importers.get(path, ())) < 2]
        return [path for path in alone if path not in SMALL_WITH_A_REASON]

    @property
    def long_functions(self) -> list[str]:
        """Functions above 40 lines."""
        return sorted(f"{path}:{name}" for path, name, count in self.functions if count > LONG)

    @property
    def ambiguous_names(self) -> dict[str, list[str]]:
        """Public names with two meanings: defined in several modules, and no interface."""
        names = {name: sorted(paths) for name, paths in self.definitions.items() if len(paths) > 1}
        return {name: paths for name, paths in sorted(names.items()) if name not in SHARED_NAMES}

    @property
    def participles(self) -> list[str]:
        """Class names whose last word is a participle."""
        return sorted(name for name in self.definitions if name[0].isupper() and is_participle(name))


def is_participle(name: str) -> bool:
    """Return whether the last word of a CamelCase name is a past participle."""
    last = re.findall(r"[A-Z][a-z0-9]*", name)[-1:] or [name]
    return last[0].lower() in IRREGULAR.split() or (last[0].endswith("ed") and last[0] not in NOUNS)


def read_house(root: Path) -> House:
    """Parse `cli.py`, `cache/` and `pipeline/` below a folder."""
    lines, functions, definitions, importers = {}, [], defaultdict(set), defaultdict(set)
    for path in [root / "cli.py", *sorted((root / "cache").rglob("*.py")), *sorted((root / "pipeline").rglob("*.py"))]:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        tree = ast.parse(text)
        if path.name == "__init__.py" and len(tree.body) <= 1:
            continue
        lines[name] = text.count("\n")
        functions += [(name, *each) for each in _functions(tree)]
        for imported in _imports(tree):
            importers[f"{imported.replace('.', '/')}.py"].add(name)
        if name not in COPIED | {"cli.py"}:  # a command is called as its stage is
            for node in tree.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    definitions[node.name].add(name)
    return House(lines, functions, dict(definitions), dict(importers))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a module imports; of `from a import b`, both a and a.b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) is not None and len(node.body) > 1
            yield node.name, (node.end_lineno or 0) - node.body[int(documented)].lineno + 1


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
            script = [str(Path(__file__).resolve()), "--root", str(root), "--trace"] if traced else ["cli.py"]
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE)
    parser.add_argument("--walks", action="store_true")
    parser.add_argument("--names", action="store_true", help="also list the names and modules that are counted")
    parser.add_argument("--trace", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root.resolve()
    if options.trace:
        trace(root, options.trace)
        return
    house = read_house(root)
    rows: dict[str, object] = {
        "modules": len(house.lines),
        "median lines of a module": statistics.median(house.lines.values()),
        "modules below 50 lines": len(house.small_modules),
        "of these, for one importer": len(house.fragments),
        "functions above 40 lines": len(house.long_functions),
        "public names with two meanings": len(house.ambiguous_names),
        "classes named by a participle": len(house.participles),
    }
    for name, walk in (measure_walks(root) if options.walks else {}).items():
        rows |= {f"{name}: files": walk.files, f"{name}: returns": walk.returns}
        rows[f"{name}: calls back"] = len(walk.calls_back)
    for title, value in rows.items():
        print(f"{title:36} {value:>6}")
    if options.names:
        print(*house.small_modules, *house.long_functions, *house.participles, sep="\n")
        print(*(f"{name}: {', '.join(paths)}" for name, paths in house.ambiguous_names.items()), sep="\n")


if __name__ == "__main__":
    main()
