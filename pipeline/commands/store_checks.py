"""Check data/.store, runs/, exports/ and report/; each check yields one line per fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from functools import partial
from pathlib import Path

from cache.arrays import read_arrays
from cache.atomic import read_checksummed_json
from cache.checksums import CHECKSUMS, read_checksums
from cache.errors import CacheError, DamagedError
from cache.fingerprint import sha256
from cache.manifest import NAME
from pipeline.commands.integrity_checks import SKIPPED, Faults
from pipeline.data.interchange.external import EXPORT_INFO, read_export_info
from pipeline.data.packing.worker import load_finished
from pipeline.data.text_slice import CARD as SLICE_CARD
from pipeline.data.text_slice import WEIGHTS as SLICE_WEIGHTS
from pipeline.evaluation.model_files import arm_faults, read_arm_card
from pipeline.project.code_versions import MADE_BY
from pipeline.project.layout import CARD, PREPROCESS
from pipeline.reporting.page_files import check_page
from pipeline.students.inputs.pixel_files import INDEX, pixel_faults

Inode = tuple[int, int]


def inodes(folder: Path) -> set[Inode]:
    """Return the files below a folder by inode, which hard links share."""
    return {_inode(path) for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else set()


def check_workspace(folder: Path, checked: Set[Inode]) -> Faults:
    """Check the work of one stage: each file by its own hash or by the file that records its hash.

    Files with another hard link among the outputs are `checked` there. Missing files are unfinished work, not faults.
    """
    kind = folder.name.rpartition("-")[0]
    if kind == "pixels":
        yield from pixel_faults(folder) if (folder / INDEX).exists() else ()
        yield from check_sealed(folder / MADE_BY) if (folder / MADE_BY).exists() else ()
        return
    if kind == "search" and (folder / CHECKSUMS).exists():
        yield from check_listed(folder, "Delete it: `search` builds it again.")
        return
    if kind == "distill" and (folder / CARD).exists():
        yield from _lines(partial(read_arm_card, folder))
        yield from arm_faults(folder, read_checksummed_json(folder / CARD))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and _inode(path) not in checked:
            yield from _lines(partial(_check_work, path))


def check_sealed(path: Path) -> Faults:
    """Check a JSON file by its own checksum."""
    yield from _lines(partial(read_checksummed_json, path))


def check_labels(path: Path) -> Faults:
    """Check labels that were embedded by hand: their hash, and that the file was not moved."""
    from pipeline.deployment.labels import read_kept  # imports torch

    yield from _lines(partial(read_kept, path))


def check_comparison(folder: Path) -> Faults:
    """Check the runs of a comparison, the checkpoints of interrupted runs, and the results."""
    from pipeline.comparison.run_store import read_run  # imports torch

    for path in sorted(folder.glob("*/*.json")):
        if path.name not in {CHECKSUMS, "summary.json"}:
            yield from _lines(partial(read_run, path))
    for path in sorted(folder.glob("*/*.state")):
        yield from _lines(partial(_check_state, path))
    for path in sorted(folder.glob(f"*/{CHECKSUMS}")):
        yield from check_listed(path.parent, "Run `compare` again.")


def check_html(path: Path, remedy: str) -> Faults:
    """Check a page by the hash in its last line."""
    yield from _lines(partial(check_page, path, remedy))


def check_listed(folder: Path, remedy: str) -> Faults:
    """Check a folder by its list of hashes."""
    yield from read_checksums(folder / CHECKSUMS, remedy).faults()


def check_export(folder: Path, models: Path) -> Faults:
    """Check an exported model or exported embeddings; folders not written by `export` are ignored."""
    if (folder / CHECKSUMS).exists():
        listed = read_checksums(folder / CHECKSUMS, "Export it again.")
        yield from listed.faults()
        arm = str(listed.facts.get("arm"))
        if folder.name != arm and (models / folder.name).is_dir():
            yield f"{folder}: holds the arm '{arm}': it was renamed or copied. Move it back, or export again."
    elif (folder / EXPORT_INFO).exists():
        yield from _lines(partial(read_export_info, folder))
    elif any((folder / name).exists() for name in (PREPROCESS, CARD)) or any(folder.glob("*.onnx")):
        yield f"{folder / CHECKSUMS}: missing: renamed, or exported by an earlier version. Export it again."


def _check_work(path: Path) -> None:
    """Raise CacheError if a file of the store changed; unknown files are ignored."""
    if path.name in {SLICE_CARD, SLICE_WEIGHTS}:
        _check_slice(path)
    elif path.name.endswith(f"-{SKIPPED}"):
        _check_skipped(path)
    elif path.suffix == ".json":
        read_checksummed_json(path)
    elif path.suffix == ".h5":
        read_arrays(path)
    elif path.suffix == ".tar":
        if path.with_suffix(".json").exists() and load_finished(path) is None:
            raise DamagedError(f"{path}: damaged, or its record is. Delete it: `pack` makes it again.")
    elif path.name == "state.safetensors":
        _check_state(path)


def _check_slice(path: Path) -> None:
    card, weights = (path.with_name(name) for name in (SLICE_CARD, SLICE_WEIGHTS))
    if card.exists() and read_checksummed_json(card).get("sha256") != sha256(weights):
        raise DamagedError(f"{weights}: damaged: its card has another SHA-256. Delete it and run `embed` again.")


def _check_skipped(path: Path) -> None:
    manifest = path.with_name(f"{path.name.removesuffix(SKIPPED)}{NAME}")
    expected = read_checksummed_json(manifest).get("skipped_sha256") if manifest.exists() else None
    if expected is not None and sha256(path) != expected:
        raise DamagedError(f"{path}: damaged: {manifest.name} has another SHA-256. Run `pack` again.")


def _check_state(path: Path) -> None:
    from pipeline.students.training.state import is_whole  # imports torch

    if not is_whole(path):
        raise DamagedError(f"{path}: damaged, or of another run. Delete it: training begins from its first step.")


def _inode(path: Path) -> Inode:
    status = path.stat()
    return status.st_dev, status.st_ino


def _lines(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except CacheError as error:
        yield str(error)
