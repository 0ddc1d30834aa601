"""Packed splits: WebDataset tars whose bytes depend only on their samples."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cache.atomic import atomic_write, read_checksummed_json
from cache.errors import DamagedError, MissingError, StaleError
from cache.fingerprint import fingerprint, sha256
from pipeline.data.packing import references
from pipeline.data.packing.caption_shards import (
    KeyedCaptions,
    PackedCaptions,
    caption_shard_name,
    parse_captions_of_split,
    read_caption_shard,
)
from pipeline.data.packing.contents import BUFFER_BYTES, ContentDigest, PackedShard, TarWriter, describe
from pipeline.data.sources.listing import Choice

FORMAT = 1
IMAGE_EXTENSIONS = ("jpg", "png", "webp")


@dataclass(frozen=True)
class Sample:
    """An image with its captions, label and other annotations."""

    key: str
    image: bytes
    extension: str
    captions: tuple[str, ...] = ()
    label: int | None = None
    source: str = ""
    choices: tuple[Choice, ...] = ()
    """In a choice set: each caption with its foils, in the order of `captions`."""

    def description(self) -> bytes:
        """Return the JSON stored next to the image."""
        return describe(self)


@dataclass(frozen=True)
class PackedSplit:
    """A packed split: its shards in order, and the classes and templates of a zero-shot set."""

    folder: Path
    split: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    shards: tuple[PackedShard, ...]
    counts: dict[str, int]
    domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a labelled split of several sources: the templates of each source."""
    caption_files: Mapping[str, PackedCaptions] = field(default_factory=dict)
    """Additional captions of the same images, by file name; not part of the split's own digest."""
    base: Path = Path()
    """Base folder of relative folders in a split packed by reference."""

    @property
    def rows(self) -> int:
        """Return the number of samples."""
        return sum(shard.rows for shard in self.shards)

    @property
    def max_shard_rows(self) -> int:
        """Return the rows of the largest shard."""
        return max((shard.rows for shard in self.shards), default=1)

    @property
    def num_shards(self) -> int:
        """Return the number of shards."""
        return len(self.shards)

    @property
    def digest(self) -> str:
        """Return twelve hex digits of everything in the manifest."""
        return fingerprint(self.manifest())

    def manifest(self) -> dict[str, Any]:
        """Return the content of manifest.json."""
        return {
            "format": FORMAT,
            "split": self.split,
            "classes": list(self.classes),
            "templates": list(self.templates),
            "shards": [asdict(shard) for shard in self.shards],
            "counts": self.counts,
            **({"domains": {name: list(own) for name, own in self.domains.items()}} if self.domains else {}),
        }

    def domain_of(self, key: str) -> str:
        """Return the domain of a sample: the source in its key, or the split if it has only one source."""
        return key.partition("/")[0] if self.domains else self.split

    def read(self, number: int, verify: Literal["hash", "size"] = "hash") -> Iterator[Sample]:
        """Yield the samples of a shard, after checking the file; the number of rows is checked at the end.

        In a split packed by reference, every source file is checked first, and each image is compared with its checksum
        before it is yielded.

        Raises:
            MissingError: the shard, or a file that it refers to, does not exist.
            DamagedError: its size, hash or number of rows differs from the manifest.
            StaleError: an image that it refers to changed since it was packed.
        """
        shard = self.shards[number]
        path = self.folder / shard.name
        check_shard(path, shard, verify)
        rows = 0
        samples = read_references(path, self.base) if shard.by_reference else read_tar(path)
        for rows, sample in enumerate(samples, start=1):  # noqa: B007  counted to the end
            yield sample
        if rows != shard.rows:
            raise DamagedError(f"{path}: {rows} samples, but its manifest says {shard.rows}. Run `pack` again.")

    def read_captions(self, name: str, number: int, verify: Literal["hash", "size"] = "hash") -> KeyedCaptions:
        """Return the keys of a shard's samples, and their additional captions from one file; raises as `read`."""
        shard = self.caption_files[name].shards[number]
        return read_caption_shard(self.folder / caption_shard_name(name, number), shard, verify)


def write_tar(path: Path, samples: Iterable[Sample]) -> PackedShard:
    """Write samples as a tar (ustar), in their order, and return the shard.

    The bytes depend only on the samples: no time, no owner, one mode.
    """
    with atomic_write(path) as temporary:
        return write_tar_to(temporary, path.name, samples)


def write_tar_to(temporary: Path, name: str, samples: Iterable[Sample]) -> PackedShard:
    """Write samples to a temporary path, and return the shard with its final name."""
    contents = ContentDigest()
    with temporary.open("wb", buffering=BUFFER_BYTES) as file:
        tar = TarWriter(file)
        for sample in samples:
            tar.add(f"{sample.key}.{sample.extension}", sample.image)
            tar.add(f"{sample.key}.json", sample.description())
            contents.add(sample)
        tar.close()
    return contents.shard(name, tar.size, tar.sha256.hexdigest())


def read_references(path: Path, base: Path) -> Iterator[Sample]:
    """Yield the samples of a shard packed by reference; raises as `ReferenceShard` does."""
    shard = references.open_references(path, base)
    shard.check_files()
    for row, image in enumerate(shard.images(range(len(shard)))):
        yield referenced_sample(shard, row, image)


def referenced_sample(shard: references.ReferenceShard, row: int, image: bytes) -> Sample:
    """Return one sample of a shard packed by reference, given its image."""
    group = {"__key__": shard.key(row), shard.extension(row): image, "json": shard.description(row)}
    return _sample(shard.path, group)


def read_tar(path: Path) -> Iterator[Sample]:
    """Yield the samples of a packed shard, grouped by key as in WebDataset.

    Raises:
        DamagedError: it is not a complete tar, or a sample lacks its image or its description.
    """
    from webdataset.tariterators import group_by_keys, tar_file_iterator  # imports torch, which packing does not need

    with path.open("rb") as file:
        groups = group_by_keys({**member, "__url__": str(path)} for member in tar_file_iterator(file))
        while True:
            try:
                group = next(groups, None)
            except (tarfile.TarError, ValueError, EOFError) as error:
                raise DamagedError(f"{path}: not a packed shard ({error}). Run `pack` again.") from None
            if group is None:
                return
            yield _sample(path, group)


def open_packed(folder: Path) -> PackedSplit:
    """Open a packed split by its manifest.

    Raises:
        MissingError: it is not packed yet.
        DamagedError: its manifest was changed, or was not written by `pack`.
        StaleError: it is another split than its folder's name.
    """
    path = folder / "manifest.json"
    try:
        manifest = read_checksummed_json(path)
        if manifest["format"] != FORMAT:
            raise DamagedError(f"{path}: format {manifest['format']}, expected {FORMAT}. Run `pack` again.")
        if manifest["split"] != folder.name:
            raise StaleError(f"{folder}: holds '{manifest['split']}': it was renamed or lies in another's place.")
        shards = tuple(PackedShard(**shard) for shard in manifest["shards"])
        classes, templates = tuple(manifest["classes"]), tuple(manifest["templates"])
        domains = {name: tuple(own) for name, own in manifest.get("domains", {}).items()}
        captions = parse_captions_of_split(manifest.get("caption_files", {}))
        return PackedSplit(folder, manifest["split"], classes, templates, shards, manifest["counts"], domains, captions)
    except MissingError:
        raise MissingError(f"{path}: not packed yet. Run `python cli.py pack --split {folder.name}` first.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{path}: not a manifest that `pack` wrote. Run `pack` again.") from None


def _sample(path: Path, group: dict[str, Any]) -> Sample:
    key = str(group["__key__"])
    extension = next((name for name in IMAGE_EXTENSIONS if name in group), None)
    if extension is None or "json" not in group:
        raise DamagedError(f"{path}: sample '{key}' has no image or no description. Run `pack` again.")
    try:
        about = json.loads(group["json"])
        choices = tuple(Choice(**{**choice, "foils": tuple(choice["foils"])}) for choice in about.get("choices", ()))
        captions = tuple(about["captions"])
        return Sample(key, group[extension], extension, captions, about.get("label"), about["source"], choices)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: sample '{key}' has a damaged description ({error!r}). Run `pack` again.") from None


def check_shard(path: Path, shard: PackedShard, verify: Literal["hash", "size"]) -> None:
    """Check the file of a shard against its manifest.

    Raises:
        MissingError: it does not exist.
        DamagedError: its size or hash differs.
    """
    if not path.exists():
        raise MissingError(f"{path}: no such shard. Run `pack` again.")
    if (size := path.stat().st_size) != shard.size:
        raise DamagedError(f"{path}: {size} bytes, but its manifest says {shard.size}. Run `pack` again.")
    if verify == "hash" and (digest := sha256(path)) != shard.sha256:
        expected = shard.sha256[:12]
        raise DamagedError(f"{path}: SHA-256 {digest[:12]}…, but its manifest says {expected}…. Run `pack` again.")
