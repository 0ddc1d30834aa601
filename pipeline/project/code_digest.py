"""A digest of the source code that decides a stage's result, without comments, docstrings and error messages."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, MissingError, WriteError
from cache.fingerprint import DIGITS

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("cache", "pipeline")
ENTRY_MODULES: dict[str, tuple[str, ...]] = {
    "synthetic": ("pipeline.data.synthetic.world", "pipeline.data.synthetic.relations"),
    "pack": ("pipeline.pack", "pipeline.data.sources.registry"),
    "pixels": ("pipeline.students.inputs.pixel_files",),
    "embed": ("pipeline.embed",),
    "moments": ("pipeline.moments",),
    "whiten": ("pipeline.whiten",),
    "distill": ("pipeline.distill",),
    "relate": ("pipeline.relate",),
    "evaluate": ("pipeline.evaluate",),
    "report": ("pipeline.report",),
    "compare": ("pipeline.comparison.params",),
}
"""Units with a digest, and the modules at which their import closure starts."""
IGNORED_MODULES: dict[str, str] = {
    "cache.atomic": "how bytes reach the disk, and JSON that gives back what was written or an error",
    "cache.errors": "error messages",
    "cache.fingerprint": "names of results",
    "cache.work_store": "folders and locks",
    "pipeline.data.errors": "error messages",
    "pipeline.data.packing.cluster_tasks": "where shards are packed, which are checked by name and hash",
    "pipeline.project.cluster": "where something is computed, and by what it is refused",
    "pipeline.project.code_digest": "this table",
    "pipeline.project.code_versions": "version numbers, which are fingerprinted by value",
    "pipeline.project.device": "where something is computed",
    "pipeline.project.errors": "error messages",
    "pipeline.project.input_files": "opens files and reads parameters, or refuses them",
    "pipeline.project.layout": "names of folders",
    "pipeline.project.lazy_dynamo": "when torch imports its compiler",
    "pipeline.project.params": "parameters, which are fingerprinted by value",
    "pipeline.project.progress": "what is shown meanwhile",
    "pipeline.project.project": "parameters, which are fingerprinted by value",
    "pipeline.project.remote": "describes a folder",
    "pipeline.project.remote.lock": "who may write",
    "pipeline.project.remote.objects": "gives back the bytes of objects, or an error",
    "pipeline.project.remote.paths": "names of objects",
    "pipeline.project.remote.reader": "gives back the bytes of objects, or an error",
    "pipeline.project.remote.retries": "how often something is tried",
    "pipeline.project.remote.store": "gives back files that were put, or none",
    "pipeline.project.remote.web_pages": "names of objects",
    "pipeline.project.worker_processes": "where something is computed",
    "pipeline.teacher.cluster_tasks": "where shards are made, which are checked by fingerprint and hash",
    "pipeline.teacher.sharing": "fetches shards, which are checked by fingerprint and hash like any others",
}
"""Modules that cannot affect a result, each with the reason."""
LAZY_CLASS = re.compile(r"[a-z_]+:[A-Z]\w*")
SEPARATE_UNITS = {"pack": "synthetic"}
"""Code that counts for another unit: a change of the synthetic sample must not repack other data."""


DIGESTS = ROOT / "pipeline" / "__pycache__" / "code_digests.json"
"""Digests that an earlier process computed from the present source files: parsing them takes a second of each stage."""


@cache
def code_digest(unit: str) -> str:
    """Return twelve hex digits of the code that decides a unit's results, as of the first call.

    SHA-256 over the syntax trees of all modules in the import closure, including imports inside functions. Other files
    next to these modules (templates, style sheets) count by their bytes.
    """
    return present_digest(unit)


def present_digest(unit: str) -> str:
    """Return the digest of a unit's code as it is now; source files that were parsed once are not parsed again."""
    source = source_digest()
    known = _known_digests(source)
    if unit not in known:
        known[unit] = compute_digest(unit, ROOT)
        if source_digest() == source:  # else a file was edited meanwhile, and the digest may belong to neither state
            _keep_digests(source, known)
    return known[unit]


def _known_digests(source: str) -> dict[str, str]:
    """Return the digests by unit that are kept for source files of a digest; a damaged file keeps none."""
    try:
        kept = read_checksummed_json(DIGESTS)
    except (MissingError, DamagedError):
        return {}
    return dict(kept["units"]) if kept["source"] == source else {}


def _keep_digests(source: str, digests: Mapping[str, str]) -> None:
    """Keep digests for later processes. Several may do so at once: each writes a file of its own and renames it."""
    own = DIGESTS.with_name(f"{DIGESTS.stem}-{uuid4().hex}.json")
    with suppress(WriteError, OSError):  # an installation that only others may write
        write_checksummed_json(own, {"source": source, "units": digests})
        own.replace(DIGESTS)


def compute_digest(unit: str, root: Path) -> str:
    """Return the digest of a unit in a copy of the source below `root`, from the present files."""
    modules = deciding_modules(unit, root)
    digest = hashlib.sha256()
    for path in sorted({module_path(name, root) for name in modules}):
        _update(digest, path.relative_to(root).as_posix(), _render_source(path.read_text(encoding="utf-8")).encode())
    folders = {module_path(name, root).parent for name in modules}
    for path in sorted(path for folder in folders for path in folder.iterdir() if path.suffix in DATA_SUFFIXES):
        _update(digest, path.relative_to(root).as_posix(), path.read_bytes())
    return digest.hexdigest()[:DIGITS]


DATA_SUFFIXES = (".css", ".j2", ".html", ".txt", ".js")


def source_digest(root: Path = ROOT) -> str:
    """Return twelve hex digits of all source files including comments; equal ones need no parsing."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*")):
        if path.suffix in (".py", *DATA_SUFFIXES):
            _update(digest, path.relative_to(root).as_posix(), path.read_bytes())
    return digest.hexdigest()[:DIGITS]


def deciding_modules(unit: str, root: Path = ROOT) -> frozenset[str]:
    """Return the modules that decide a unit's results."""
    separate = ENTRY_MODULES[SEPARATE_UNITS[unit]] if unit in SEPARATE_UNITS else ()
    return import_closure(ENTRY_MODULES[unit], root, frozenset(separate))


def import_closure(
    entries: tuple[str, ...], root: Path = ROOT, separate: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Return the entry modules and every first-party module that they import, except ignored and separate ones."""
    closure: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name not in closure and name not in separate and name not in IGNORED_MODULES:
            closure.add(name)
            waiting += first_party_imports(module_path(name, root), root)
    return frozenset(closure)


def first_party_imports(path: Path, root: Path) -> Iterator[str]:
    """Yield the modules of `cache` and `pipeline` that a module imports, anywhere in it.

    A string such as "folders:ImageFolderSource" counts as an import from the module's own package, as used by tables of
    classes that are imported by name.
    """
    package = ".".join(path.parent.relative_to(root).parts)
    names = _imported_names(path.read_text(encoding="utf-8"), package)
    yield from (name for name in names if name.split(".")[0] in PACKAGES and module_path(name, root).is_file())


@cache
def _imported_names(source: str, package: str) -> tuple[str, ...]:
    """Return every dotted name that may be a module that the source imports."""
    found: list[str] = []
    for node in _executed(_parse_source(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY_CLASS.fullmatch(node.value):
            found.append(f"{package}.{node.value.split(':')[0]}")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def module_path(name: str, root: Path = ROOT) -> Path:
    """Return the file of a dotted module; for a package its `__init__.py`."""
    path = root.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def render_code(node: object) -> str:
    """Return a syntax tree as text that is the same for all Python versions, without parts that cannot affect results.

    Omitted: formatting, comments, docstrings and other standalone strings, imports for type checkers, and the arguments
    of raised errors, because a stage that raises leaves no result. Names count, also local ones: to ignore them soundly
    would require the scopes of closures, comprehensions and `locals()`.
    """
    if isinstance(node, ast.Raise) and (error := _error_class(node)) is not None:
        return f"Raise({render_code(error)})"
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in ("kind", "type_comment"))
        rendered = [f"{name}={render_code(value)}" for name, value in fields if value is not None and value != []]
        return f"{type(node).__name__}({','.join(rendered)})"
    if isinstance(node, list):
        return f"[{','.join(render_code(item) for item in node if not _is_without_effect(item))}]"
    return repr(node)


@cache
def _render_source(source: str) -> str:
    return render_code(_parse_source(source))


@cache
def _parse_source(source: str) -> ast.Module:
    return ast.parse(source)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except those for type checkers."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if not _is_without_effect(node):
            yield node
            waiting += ast.iter_child_nodes(node)


def _is_without_effect(node: object) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _error_class(node: ast.Raise) -> ast.expr | None:
    """Return the class of a raised error whose arguments are its message."""
    error = node.exc
    if not isinstance(error, ast.Call) or any(isinstance(part, ast.NamedExpr) for part in ast.walk(error)):
        return None
    name = error.func.attr if isinstance(error.func, ast.Attribute) else getattr(error.func, "id", "")
    return error.func if name.endswith("Error") else None


def _update(digest: hashlib._Hash, name: str, data: bytes) -> None:
    digest.update(f"{name} {len(data)}\n".encode() + data)
