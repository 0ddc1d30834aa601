"""Import embeddings made by another tool, and list the metadata they lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cache.errors import CacheError
from cache.manifest import NAME, TEXT, Manifest, ManifestPart, read_manifest, view_name, write_manifest
from cache.work_store import WorkStore
from pipeline.data.interchange.alignment import align_to_packed, shard_in_order
from pipeline.data.interchange.clip_retrieval import is_clip_retrieval, read_clip_retrieval
from pipeline.data.interchange.external import ExternalEmbeddings
from pipeline.data.interchange.import_plan import ImportedPart, missing_provenance, plan_import
from pipeline.data.interchange.npy_folder import read_npy_file, read_npy_folder
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.progress import progress


@dataclass(frozen=True)
class ImportResult:
    """Result of an import, and the unknown metadata."""

    folder: Path
    images: int
    texts: int
    dim: int
    unpacked_rows: int
    """Number of embeddings without a packed image."""
    missing_provenance: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """Return lines for the terminal."""
        less = f", {self.unpacked_rows} left out: their images are not packed" if self.unpacked_rows else ""
        first = f"{self.folder}: {self.images} images and {self.texts} texts of {self.dim} dimensions{less}"
        return [first, *(f"not known: {line}" for line in self.missing_provenance)]


def import_embeddings(
    source: Path, split: str, layout: Layout, *, text: Path | None = None, model: str | None = None, force: bool = False
) -> ImportResult:
    """Write `data/embeddings/<split>/` from clip-retrieval's folder, a folder of `.npy` files, or a single file.

    If the split is packed, embeddings are aligned with its images, so that students can be trained on them; otherwise
    the store has no images. Finished shards stay in data/.store, so an interrupted import resumes.

    Raises:
        UsageError: the files have a wrong format, or the folder holds other embeddings.
        CacheError: the packed split is damaged, or the disk is full.
    """
    if not re.fullmatch(r"[\w.\-]+", split) or split.startswith("."):
        raise UsageError(f"--split {split}: expected a name of letters, digits, '-', '_' and '.'")
    foreign = _read(source, text)
    packed = open_packed(layout.packed(split)) if (layout.packed(split) / NAME).exists() else None
    places = align_to_packed(foreign, packed) if packed else shard_in_order(foreign)
    manifest = _write(plan_import(foreign, places, packed, model), split, packed, layout, force=force)
    images = sum(len(place.keys) for place in places)
    return ImportResult(
        layout.embeddings(split),
        images,
        manifest.parts[TEXT].rows if manifest.has_captions else 0,
        foreign.image.dim,
        len(foreign.image_names) - images,
        tuple(missing_provenance(foreign, manifest.teacher, packed)),
    )


def _read(source: Path, text: Path | None) -> ExternalEmbeddings:
    if not source.is_dir():
        return read_npy_file(source, text)
    if text:
        raise UsageError(f"--text {text}: only beside a single .npy of images, and {source} is a folder")
    return read_clip_retrieval(source) if is_clip_retrieval(source) else read_npy_folder(source)


def _write(
    parts: Sequence[ImportedPart], split: str, packed: PackedSplit | None, layout: Layout, *, force: bool
) -> Manifest:
    store, out = WorkStore(layout.store), layout.embeddings(split)
    folders = {part.name: store.workspace("import", part.fingerprint) for part in parts}
    with ExitStack() as locks:
        for part in parts:
            locks.enter_context(store.lock("import", part.fingerprint))
        _refuse_another(out, parts, force)
        store.pin("embed", out, [f"{folder.name}/" for folder in folders.values()])
        manifest = _manifest(parts, split, packed, {part.name: _finish(part, folders[part.name]) for part in parts})
        manifest_folder = folders[view_name(0)] / split
        write_manifest(manifest_folder, manifest)
        files = {f"{n}/{shard.name}": folders[n] / shard.name for n, p in manifest.parts.items() for shard in p.shards}
        store.publish({**files, NAME: manifest_folder / NAME}, out)
    return manifest


def _manifest(
    parts: Sequence[ImportedPart], split: str, packed: PackedSplit | None, finished: dict[str, ManifestPart]
) -> Manifest:
    first = parts[0]
    source = {
        "imported": first.facts["imported"],
        "files": [path.name for path in first.foreign.files],
        "images": sum(len(place.keys) for place in first.places),
    }
    beside = {"packed": packed.digest} if packed else {}
    versions = {"numpy": version("numpy")}
    return Manifest(split, dict(first.facts["teacher"]), {**source, **beside}, versions, 0, finished)


def _finish(part: ImportedPart, folder: Path) -> ManifestPart:
    with progress(f"import {part.name}", len(part.places), "shards") as advance:
        records = []
        for number in range(len(part.places)):
            records.append(part.write_if_missing(folder, number))
            advance()
    return ManifestPart(part.fingerprint, part.facts, tuple(records))


def _refuse_another(out: Path, parts: Sequence[ImportedPart], force: bool) -> None:
    """Refuse to replace embeddings of another origin, unless forced."""
    if force or not (out / NAME).exists():
        return
    try:
        present = read_manifest(out)
    except CacheError:
        return
    if {name: part.facts for name, part in present.parts.items()} != {part.name: part.facts for part in parts}:
        raise UsageError(
            f"{out}: holds embeddings by {present.teacher.get('model')}, not this import. Pass --force to replace "
            "them, or --split NAME or --root DIR to keep both."
        )
