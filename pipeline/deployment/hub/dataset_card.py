"""Write the dataset card of a published cache: contents, provenance, verification and terms of use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCardData

from pipeline.project.terminal import escape_markdown

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
"""The Hub's size categories, a factor of ten each."""
HUB_PREFIX = "hf-hub:"


@dataclass(frozen=True)
class PartFacts:
    """One part of a split: a view of the images, the texts, or the prompts."""

    name: str
    rows: int
    size_bytes: int
    view: str = ""


@dataclass(frozen=True)
class SplitFacts:
    """Description of a split, from its manifests."""

    name: str
    images: int
    parts: tuple[PartFacts, ...]
    manifest_sha256: str
    packed: str
    """Digest of the packed images; empty for imported embeddings."""
    source: str = ""
    """Source of the images, as named in the parameters."""
    classes: tuple[str, ...] = ()
    skipped: int = 0


@dataclass(frozen=True)
class CacheFacts:
    """A cache of one teacher."""

    teacher: Mapping[str, Any]
    versions: Mapping[str, str]
    splits: tuple[SplitFacts, ...]
    license: str = ""
    """License of the teacher, as given by the publisher."""


def write_dataset_card(cache: CacheFacts) -> str:
    """Return the dataset card as Markdown, with the Hub's metadata block in front."""
    parts = (
        _metadata(cache),
        _summary(cache),
        _contents(cache.splits),
        _teacher(cache),
        _check(cache.splits),
        _rights(cache),
    )
    return "\n".join(parts)


def _metadata(cache: CacheFacts) -> str:
    rows = sum(split.images for split in cache.splits)
    data = DatasetCardData(
        pretty_name=f"Embeddings of {cache.teacher['model']}",
        task_categories=["image-feature-extraction", "zero-shot-image-classification"],
        license="other",
        license_name=cache.license or "not-stated",
        size_categories=[SIZES[min(max(int(math.log10(max(rows, 1))) - 2, 0), len(SIZES) - 1)]],
        tags=["clip", "embeddings", "knowledge-distillation", "hdf5"],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _summary(cache: CacheFacts) -> str:
    images = sum(split.images for split in cache.splits)
    size = sum(part.size_bytes for split in cache.splits for part in split.parts)
    return (
        f"# Embeddings of {escape_markdown(str(cache.teacher['model']))}\n\n"
        f"CLIP embeddings of {images:,} images and their texts: {cache.teacher['dim']} dimensions, float32, not "
        f"normalized, {size / 1e6:,.1f} MB in HDF5 shards. It contains no images; rows are identified by key. Texts "
        "are stored as token ids, from which they can be decoded. Made with W-CLIP KD, whose `docs/format.md` "
        "describes every file; reading needs only h5py.\n"
    )


def _contents(splits: Sequence[SplitFacts]) -> str:
    rows = [_part_row(split.name, part) for split in splits for part in split.parts]
    notes = [f"* {escape_markdown(split.name)}: {_origin(split)}" for split in splits]
    table = "| split | part | rows | size | view |\n|---|---|---:|---:|---|"
    return "\n".join(["## What it holds\n", table, *rows, "", *notes, ""])


def _part_row(split: str, part: PartFacts) -> str:
    view = escape_markdown(part.view) or "–"
    return f"| {escape_markdown(split)} | {part.name} | {part.rows:,} | {part.size_bytes / 1e6:,.1f} MB | {view} |"


def _origin(split: SplitFacts) -> str:
    source = f"from {escape_markdown(split.source)}" if split.source else "of a source that the parameters do not name"
    names = escape_markdown(", ".join(split.classes[:12]))
    classes = f"; {len(split.classes)} classes: {names}{' …' if len(split.classes) > 12 else ''}"
    skipped = f"; {split.skipped:,} files could not be read and were skipped" if split.skipped else ""
    packed = f"; packed as `{split.packed}`" if split.packed else "; imported from another tool"
    return f"{split.images:,} images {source}{packed}{skipped}{classes if split.classes else ''}."


def _teacher(cache: CacheFacts) -> str:
    name = str(cache.teacher["model"])
    link = (
        f" ([its card](https://huggingface.co/{name.removeprefix(HUB_PREFIX)}))" if name.startswith(HUB_PREFIX) else ""
    )
    facts = {key: value for key, value in cache.teacher.items() if key != "model"}
    lines = [f"* {key}: `{_plain(value)}`" for key, value in sorted(facts.items())]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(cache.versions.items()))
    return "\n".join(
        ["## The teacher\n", f"{escape_markdown(name)}{link}.\n", *lines, f"* computed with {versions}", ""]
    )


def _check(splits: Sequence[SplitFacts]) -> str:
    rows = [f"| {escape_markdown(split.name)} | `{split.manifest_sha256}` |" for split in splits]
    words = (
        "Each `manifest.json` has the SHA-256 of every shard; these are the SHA-256 of the manifests. `python cli.py "
        "verify` checks all hashes; with the images and the teacher, `python cli.py verify --recompute 64` also embeds "
        "random rows again.\n"
    )
    return "\n".join(["## How to check it\n", words, "| split | SHA-256 of manifest.json |\n|---|---|", *rows, ""])


def _rights(cache: CacheFacts) -> str:
    stated = (
        escape_markdown(cache.license)
        or "**not stated: the publisher must state it (`info --card FILE --license NAME`)**"
    )
    return (
        "## What may be derived, and what not\n\n"
        f"* License of the teacher: {stated}. Embeddings are its output; students trained on them inherit its terms, "
        "and those of the images and captions.\n"
        "* Target spaces, students, search and zero-shot scores can be derived. New views, other crops and another "
        "teacher's embeddings cannot: they need the images.\n"
        "* Captions can be read from their token ids. Images cannot be read from embeddings, but what an image shows "
        "can be guessed, and whoever has an image can tell whether it is among these. Publish this only if images and "
        "captions could be published.\n"
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
