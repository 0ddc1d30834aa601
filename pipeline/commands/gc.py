"""Remove finished work from the store that no output of the current parameters uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.atomic import TEMP_SUFFIX, os_errors_as_write_errors
from cache.errors import LockedError
from cache.work_store import WorkStore
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole


@dataclass(frozen=True)
class GcResult:
    """Files that were removed, or would be."""

    removed: tuple[Path, ...]
    size: int
    """Freed disk space in bytes: the size of removed files without another hard link."""
    kept_size: int
    busy: tuple[str, ...]
    """Processes that work in folders that were kept."""
    dry: bool


def gc(layout: Layout, splits: Sequence[str], arms: Sequence[tuple[str, str]], dry: bool = False) -> GcResult:
    """Remove files of the store that no split, arm or run of the current parameters uses.

    Folders in use by a running process are kept. With `dry`, nothing is removed.

    Raises:
        WriteError: a file cannot be removed.
        DamagedError: a claim was edited or renamed.
    """
    store = WorkStore(layout.store)
    outs = _outs(layout, splits, arms)
    claimed_prefixes = tuple(prefix for out, claimed in store.pins() if out in outs for prefix in claimed)
    removed, busy, size, kept_size = [], [], 0, 0
    for folder in (path for path in _inside(store.root) if path.is_dir()):
        stage, _, mark = folder.name.rpartition("-")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        waste = [
            path
            for path in files
            if not f"{path.relative_to(store.root)}".startswith(claimed_prefixes) or _unfinished(path)
        ]
        try:
            with store.lock(stage, mark):
                size += sum(_gain(path) for path in waste)
                removed += list(_remove(folder, waste, dry))
        except LockedError as error:
            busy.append(str(error))
            waste = []
        kept_size += sum(path.stat().st_size for path in files if path not in waste)
    return GcResult(tuple(removed), size, kept_size, tuple(busy), dry)


def print_result(result: GcResult, console: PlainConsole) -> None:
    """Print the freed space and the folders that were kept."""
    for path in result.removed:
        console.print(path, soft_wrap=True, markup=False, highlight=False)
    verb = "would be removed" if result.dry else "removed"
    console.print(
        f"{len(result.removed)} files {verb}, {result.size / 1e6:.1f} MB; {result.kept_size / 1e6:.1f} MB in use"
    )
    for line in result.busy:
        console.print(f"kept, in use by a process: {line}", soft_wrap=True, markup=False)


def _outs(layout: Layout, splits: Sequence[str], arms: Sequence[tuple[str, str]]) -> set[Path]:
    """Return the outputs named by the current parameters, and all runs made by hand."""
    named = [place(split) for split in splits for place in (layout.packed, layout.embeddings)]
    return {path.resolve() for path in [*named, *(layout.model(*arm) for arm in arms), *_inside(layout.root / "runs")]}


def _remove(folder: Path, waste: Sequence[Path], dry: bool) -> Iterator[Path]:
    for path in waste:
        if not dry:
            with os_errors_as_write_errors(path):
                path.unlink()
        yield path
    if not dry:
        for left in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            _remove_empty(left)
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    if not _inside(folder):
        with os_errors_as_write_errors(folder):
            folder.rmdir()


def _gain(path: Path) -> int:
    status = path.stat()
    return status.st_size if status.st_nlink == 1 else 0


def _unfinished(path: Path) -> bool:
    return path.name.endswith(TEMP_SUFFIX)


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
