"""Parameters of `pack`, and one job per shard, named by the facts that decide its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cache.fingerprint import fingerprint
from pipeline.data.images import CODEC, Encoding, ImageCheck
from pipeline.data.packing.references import SUFFIX
from pipeline.data.packing.worker import PackJob
from pipeline.data.sources.base import Source
from pipeline.data.sources.listing import Entry, Listing
from pipeline.project.code_versions import code_version
from pipeline.project.params import ParamsSection, renamed


class PackParams(ParamsSection):
    """The `pack:` section."""

    shard_rows: int = Field(default=1000, ge=1)
    """Samples per shard, before bad ones are skipped."""
    limit: int | None = Field(default=None, ge=1)
    """Pack only the first N keys."""
    resize: int | None = Field(default=None, ge=8)
    """Scale images with a longer shorter side down to this; null keeps original bytes."""
    quality: int = Field(default=92, ge=1, le=100)
    """JPEG quality of resized images."""
    max_skipped_fraction: float = renamed("max_bad", default=0.01, ge=0, le=1)
    """Share of samples that may be skipped before packing fails."""
    image_check: ImageCheck = renamed("check", default="structure")
    """Check of originals: headers, checksums and end markers, or decoding each."""
    mode: Literal["copy", "reference"] = Field(default="copy", exclude_if=lambda mode: mode == "copy")
    """Copy images into shards, or record their location in the original files."""

    @property
    def encoding(self) -> Encoding:
        """Return the parameters that decide the bytes of an image."""
        return Encoding(self.resize, self.quality, self.image_check)

    @property
    def suffix(self) -> str:
        """Return the extension of shards."""
        return SUFFIX if self.mode == "reference" else ".tar"


def shard_facts(source: Source, listing: Listing, params: PackParams) -> dict[str, Any]:
    """Return the facts that decide the bytes of all shards; those of a single shard are part of its name."""
    how = asdict(params.encoding) | source.content_facts(listing) | {"classes": len(listing.classes)}
    mode = {} if params.mode == "copy" else {"mode": params.mode}
    return {"format": code_version("pack"), "source": source.model_dump(mode="json"), "codec": CODEC, **how, **mode}


def plan_jobs(
    workspace: Path, source: Source, entries: Sequence[Entry], params: PackParams, classes: int
) -> list[PackJob]:
    """Return one job per shard; its file name depends on its contents, so equal shards are packed once."""
    slices = (entries[at : at + params.shard_rows] for at in range(0, len(entries), params.shard_rows))
    paths = ((workspace / f"{_slice_name(part)}{params.suffix}", part) for part in slices)
    by_reference = params.mode == "reference"
    return [PackJob(path, source, part, params.encoding, classes, by_reference) for path, part in paths]


def _slice_name(entries: Sequence[Entry]) -> str:
    return fingerprint({"entries": [entry.facts() for entry in entries]})
