"""Write the dataset card of a cache from its manifests: `info --card`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from cache.fingerprint import sha256_bytes
from cache.manifest import NAME, Manifest, ManifestPart, read_manifest
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.deployment.hub.dataset_card import CacheFacts, PartFacts, SplitFacts, write_dataset_card
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout


def write_cache_card(
    path: Path, splits: Sequence[str], sources: Mapping[str, Any], layout: Layout, teacher_license: str = ""
) -> Path:
    """Write the card of the embedded splits; `sources` is the `index:` section, which names the sources of the images.

    Raises:
        UsageError: nothing is embedded, or the splits have different teachers.
        CacheError: a manifest is damaged.
    """
    manifests = {split: read_manifest(layout.embeddings(split)) for split in splits if _embedded(split, layout)}
    if not manifests:
        raise UsageError(f"info --card: none of {', '.join(splits)} is embedded yet. Run `dvc repro embed` first.")
    first = next(iter(manifests.values()))
    others = [split for split, manifest in manifests.items() if manifest.teacher != first.teacher]
    if others:
        raise UsageError(
            f"info --card: {', '.join(others)}: of another teacher than the rest. A card is of one teacher: "
            "pass --split."
        )
    facts = tuple(
        _split_facts(split, split_manifest, sources.get(split), layout) for split, split_manifest in manifests.items()
    )
    write_text(path, write_dataset_card(CacheFacts(first.teacher, first.versions, facts, teacher_license)))
    return path


def _embedded(split: str, layout: Layout) -> bool:
    return (layout.embeddings(split) / NAME).exists()


def _split_facts(split: str, manifest: Manifest, source: Any, layout: Layout) -> SplitFacts:
    folder = layout.embeddings(split)
    packed: PackedSplit | None = open_packed(layout.packed(split)) if (layout.packed(split) / NAME).exists() else None
    return SplitFacts(
        split,
        manifest.rows,
        tuple(_part_facts(folder, name, part) for name, part in sorted(manifest.parts.items())),
        sha256_bytes((folder / NAME).read_bytes()),
        str(manifest.source.get("packed") or ""),
        _source_name(source),
        packed.classes if packed else (),
        packed.counts.get("skipped", 0) if packed else 0,
    )


def _part_facts(folder: Path, name: str, part: ManifestPart) -> PartFacts:
    view = ", ".join(f"{key} {value}" for key, value in part.facts.get("view", {}).items())
    size = sum((folder / name / shard.name).stat().st_size for shard in part.shards)
    return PartFacts(name, part.rows, size, view)


def _source_name(source: Any) -> str:
    """Return a source as named in the parameters, without local paths."""
    if isinstance(source, list):
        return " and ".join(filter(None, map(_source_name, source)))
    if not isinstance(source, Mapping):
        return ""
    shown_values = {key: value for key, value in source.items() if key == "source" or isinstance(value, int | float)}
    return ", ".join(f"{value}" if key == "source" else f"{key} {value}" for key, value in shown_values.items())
