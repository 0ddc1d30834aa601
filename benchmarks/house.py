"""Figures of the code base: sizes of modules and functions, ambiguous names, and files opened by three stages.

python benchmarks/house.py                     the static figures of this checkout
python benchmarks/house.py --root DIR          those of another checkout, of any version
python benchmarks/house.py --walks             also runs three stages on a small sample, under a tracer
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.house_walks import measure_walks

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE)
    parser.add_argument("--walks", action="store_true")
    parser.add_argument("--names", action="store_true", help="also list the names and modules that are counted")
    options = parser.parse_args()
    root = options.root.resolve()
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
