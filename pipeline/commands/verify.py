"""Check every file of the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cache.checksums import CHECKSUMS
from cache.work_store import UNKNOWN, WorkStore
from pipeline.commands.integrity_checks import (
    Faults,
    check_embeddings,
    check_moments,
    check_packed,
    check_scorer,
    check_student,
    check_target,
    collect_faults,
)
from pipeline.commands.store_checks import (
    check_comparison,
    check_export,
    check_html,
    check_labels,
    check_listed,
    check_sealed,
    check_workspace,
    inodes,
)
from pipeline.project.errors import PipelineError, UsageError, did_you_mean
from pipeline.project.layout import Layout
from pipeline.project.progress import progress
from pipeline.project.terminal import PlainConsole
from pipeline.reporting.page_files import is_page


@dataclass(frozen=True)
class CheckResult:
    """One checked item, its size, and its faults."""

    path: Path
    size: int
    """In bytes."""
    faults: tuple[str, ...]


@dataclass(frozen=True)
class VerifyResult:
    """All checked items."""

    checked: tuple[CheckResult, ...]

    @property
    def faults(self) -> list[str]:
        """Return all faults in the order of the checks."""
        return [fault for checked in self.checked for fault in checked.faults]

    def raise_if_faulty(self) -> None:
        """Raise PipelineError if there is a fault."""
        if self.faults:
            raise PipelineError(f"{len(self.faults)} faults: what is named above is damaged, stale or misplaced")


def verify(layout: Layout, splits: Sequence[str] | None = None) -> VerifyResult:
    """Check all files below data/, models/, runs/, exports/ and report/.

    With `splits`, only these splits. A missing output is not a fault; an existing one must be complete, agree with its
    manifest, and belong to its inputs.

    Raises:
        UsageError: a named split does not exist.
    """
    folders = [path for kind in ("packed", "embeddings") for path in _inside(layout.root / "data" / kind)]
    names = sorted({path.name for path in folders})
    for split in splits or ():
        if split not in names:
            raise UsageError(f"--split {split}: nothing packed or embedded under that name{did_you_mean(split, names)}")
    checks = [*_splits(layout, splits or names), *(() if splits else _rest(layout))]
    checked = []
    with progress("verify", len(checks), "files and folders") as advance:
        for path, check in checks:
            checked.append(CheckResult(path, _size(path), tuple(collect_faults(check))))
            advance(note=path.name)
    return VerifyResult(tuple(checked))


def print_verify(result: VerifyResult, console: PlainConsole) -> None:
    """Print one line per item, and every fault in full."""
    table = Table(box=None, pad_edge=False)
    for name in ("checked", "MB", ""):
        table.add_column(name, justify="right" if name == "MB" else "left")
    for checked in result.checked:
        faults = len(checked.faults)
        summary = Text(f"{faults} faults", style="red") if faults else Text("intact", style="green")
        table.add_row(str(checked.path), f"{checked.size / 1e6:.1f}", summary)
    console.print(table)
    for fault in result.faults:
        console.print(fault, style="red", soft_wrap=True)


Planned = tuple[Path, Callable[[], Faults]]


def _splits(layout: Layout, splits: Sequence[str]) -> Iterator[Planned]:
    for split in splits:
        packed, embeddings = layout.packed(split), layout.embeddings(split)
        if packed.exists():
            yield packed, partial(check_packed, packed)
        if embeddings.exists():
            yield embeddings, partial(check_embeddings, embeddings, packed)


def _rest(layout: Layout) -> Iterator[Planned]:
    data = layout.root / "data"
    sealed = [*_inside(data / "index"), *_inside(layout.scorer_records)]
    for path in [*sealed, *([layout.code] if layout.code.exists() else [])]:
        yield path, partial(check_sealed, path)
    targets = _inside(data / "targets")
    if layout.moments.exists() or targets:
        yield layout.moments, partial(check_moments, layout)
    for path in targets:
        yield path, partial(check_target, layout, path)
    for path in sorted(data.glob("labels-*.h5")):
        yield path, partial(check_labels, path)
    for folder in (path for path in [*_inside(layout.models), *_inside(layout.root / "runs")] if path.is_dir()):
        if any(path.stem == "scorer" for path in _inside(folder)):
            yield folder, partial(check_scorer, folder)
        elif folder != layout.comparisons:
            yield folder, partial(check_student, layout, folder)
    for folder in _inside(layout.comparisons):
        yield folder, partial(check_comparison, folder)
    for folder in (path for path in [*_inside(layout.exports), *layout.exports.glob("hub/*/*")] if path.is_dir()):
        yield folder, partial(check_export, folder, layout.models)
    yield from _pages(layout)
    if (layout.audit / CHECKSUMS).exists():
        yield layout.audit, partial(check_listed, layout.audit, "Run `audit` again.")
    yield from _store(layout)


def _pages(layout: Layout) -> Iterator[Planned]:
    """Plan the checks of HTML pages; exports/ may contain pages of other origin, report/ may not."""
    for path in (path for path in sorted(layout.exports.glob("*.html")) if path.is_file() and is_page(path)):
        yield path, partial(check_html, path, "Export it again.")
    if layout.report.exists():
        yield layout.report, partial(check_html, layout.report, "Run `report` again.")


def _store(layout: Layout) -> Iterator[Planned]:
    """Plan the checks of the store; files with a hard link among the outputs are hashed only there."""
    outputs = [layout.root / "data" / kind for kind in ("packed", "embeddings")]
    checked = frozenset(chain.from_iterable(map(inodes, outputs)))
    for path in _inside(layout.store):
        if path.is_dir():
            yield path, partial(check_workspace, path, checked)
        elif path.suffix == ".claim":
            yield path, partial(check_sealed, path)
    for path in WorkStore(layout.store).unknown_files():
        yield path, partial(iter, [f"{path}: {UNKNOWN}"])


def _inside(folder: Path) -> list[Path]:
    """Return the entries of a folder without the .gitignore files that DVC writes."""
    return sorted(path for path in folder.iterdir() if path.name != ".gitignore") if folder.is_dir() else []


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
