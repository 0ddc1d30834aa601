"""Show a project's cached files, their provenance and their size, from manifests alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cache.errors import CacheError
from cache.fingerprint import fingerprint
from cache.manifest import NAME, read_manifest
from cache.teachers import teacher_folders
from pipeline.data.packing.caption_shards import FOLDER as CAPTIONS
from pipeline.data.packing.packed import open_packed
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole


@dataclass(frozen=True)
class CacheItem:
    """One cached item: a packed split, one part of its embeddings, moments, a target space, the store."""

    path: Path
    rows: int | None
    files: int
    size: int
    """In bytes."""
    made_by: str


@dataclass(frozen=True)
class InfoResult:
    """All cached items, and the teachers by a short name of their facts."""

    root: Path
    holdings: tuple[CacheItem, ...]
    teachers: dict[str, dict[str, Any]]


def info(layout: Layout, splits: Sequence[str]) -> InfoResult:
    """Describe the existing files of these splits, and of what was fitted on them."""
    teachers: dict[str, dict[str, Any]] = {}
    holdings = [holding for split in splits for holding in _split(layout, split, teachers)]
    for path in [layout.moments, *sorted((layout.root / "data" / "targets").glob("*.h5"))]:
        if path.exists():
            holdings.append(CacheItem(path, None, 1, path.stat().st_size, ""))
    if layout.store.is_dir():
        holdings.append(_holding(layout.store, None, "finished and unfinished work; mostly the files above again"))
    return InfoResult(layout.root, tuple(holdings), teachers)


def print_info(result: InfoResult, console: PlainConsole) -> None:
    """Print one line per item, and the description of each teacher."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "rows", "files", "MB", "made by"):
        table.add_column(name, justify="right" if name in {"rows", "files", "MB"} else "left", overflow="fold")
    for holding in result.holdings:
        name, rows = str(holding.path.relative_to(result.root)), "" if holding.rows is None else str(holding.rows)
        table.add_row(name, rows, str(holding.files), f"{holding.size / 1e6:.1f}", holding.made_by)
    console.print(table)
    for name, facts in result.teachers.items():
        console.print(f"teacher {name}:", soft_wrap=True)
        for key, value in facts.items():
            console.print(f"  {key}: {value}", soft_wrap=True, markup=False)


def _split(layout: Layout, split: str, teachers: dict[str, dict[str, Any]]) -> Iterator[CacheItem]:
    if (layout.packed(split) / NAME).exists():
        try:
            packed = open_packed(layout.packed(split))
            yield _holding(packed.folder, packed.rows, f"packed {packed.digest}")
            for name, further in packed.caption_files.items():
                about = f"further captions of {further.counts['images']} images, {further.counts['missing']} have none"
                yield _holding(packed.folder / CAPTIONS / name, further.counts["captions"], about)
        except CacheError as error:
            yield _holding(layout.packed(split), None, str(error))
    if (layout.embeddings(split) / NAME).exists():
        try:
            folders = teacher_folders(layout.embeddings(split))
        except CacheError as error:
            yield _holding(layout.embeddings(split), None, str(error))
            return
        for called, folder in folders.items():
            yield from _embedded(folder, called, teachers)


def _embedded(folder: Path, called: str, teachers: dict[str, dict[str, Any]]) -> Iterator[CacheItem]:
    """Describe the embeddings by one teacher."""
    try:
        manifest = read_manifest(folder)
    except CacheError as error:
        yield _holding(folder, None, str(error))
        return
    name = fingerprint({"teacher": manifest.teacher})
    names = {"called": called} if called else {}
    versions = {"versions": _format_facts(manifest.versions), "batch": manifest.batch}
    teachers[name] = {**names, **manifest.teacher, **versions}
    for part, record in manifest.parts.items():
        made_by = f"teacher {called + ' ' if called else ''}{name}, packed {manifest.source.get('packed')}"
        yield _holding(folder / part, record.rows, f"{made_by}{_view(record.facts)}")


def _holding(folder: Path, rows: int | None, made_by: str) -> CacheItem:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return CacheItem(folder, rows, len(files), sum(path.stat().st_size for path in files), made_by)


def _view(facts: Mapping[str, Any]) -> str:
    return f", {_format_facts(facts['view'])}" if "view" in facts else ""


def _format_facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items())
