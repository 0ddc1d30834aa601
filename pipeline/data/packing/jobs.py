"""What `pack` is to do: its parameters, and a job for each shard, named by what decides its bytes."""

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
    """Samples in a shard, before bad ones are left out."""
    limit: int | None = Field(default=None, ge=1)
    """Take the first N keys."""
    resize: int | None = Field(default=None, ge=8)
    """Scale images whose shorter side is longer than this down to it; null keeps originals byte for byte."""
    quality: int = Field(default=92, ge=1, le=100)
    """JPEG quality of resized images."""
    max_skipped_fraction: float = renamed("max_bad", default=0.01, ge=0, le=1)
    """Share of samples that may be skipped before packing fails."""
    check: ImageCheck = "structure"
    """How originals are checked: by headers, checksums and end marks, or by decoding each."""
    mode: Literal["copy", "reference"] = Field(default="copy", exclude_if=lambda mode: mode == "copy")
    """Whether images are copied into shards, or stay in the files they are in and shards say where."""

    @property
    def encoding(self) -> Encoding:
        """Return what decides the bytes of an image."""
        return Encoding(self.resize, self.quality, self.check)

    @property
    def suffix(self) -> str:
        """Return how the names of shards end."""
        return SUFFIX if self.mode == "reference" else ".tar"


def shard_facts(source: Source, listing: Listing, params: PackParams) -> dict[str, Any]:
    """Return what decides the bytes of every shard; what decides those of one stands in its name."""
    how = asdict(params.encoding) | source.content_facts(listing) | {"classes": len(listing.classes)}
    mode = {} if params.mode == "copy" else {"mode": params.mode}
    return {"format": code_version("pack"), "source": source.model_dump(mode="json"), "codec": CODEC, **how, **mode}


def plan_jobs(
    workspace: Path, source: Source, entries: Sequence[Entry], params: PackParams, classes: int
) -> list[PackJob]:
    """Return a job for each shard; what is in it names its file, so that equal shards are packed once."""
    slices = (entries[at : at + params.shard_rows] for at in range(0, len(entries), params.shard_rows))
    paths = ((workspace / f"{_slice_name(part)}{params.suffix}", part) for part in slices)
    by_reference = params.mode == "reference"
    return [PackJob(path, source, part, params.encoding, classes, by_reference) for path, part in paths]


def _slice_name(entries: Sequence[Entry]) -> str:
    return fingerprint({"entries": [entry.facts() for entry in entries]})
