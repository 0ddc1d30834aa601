"""Additional captions of a split's images, such as generated ones: read files and match them to images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.data.sources.base import Source, read_metadata_file
from pipeline.data.sources.caption_files import CaptionsByImage, clean_captions, read_caption_table
from pipeline.data.sources.listing import Entry, Listing
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import require_name

LEARNT_FROM = "train"
"""The training split, the only one whose additional captions are used."""


@dataclass(frozen=True)
class MatchedCaptions:
    """Captions of a file by sample, in the order of the keys, and statistics of the match."""

    captions: tuple[tuple[str, ...], ...]
    """Captions of each sample; may be empty."""
    counts: dict[str, int]
    first_unknown: str = ""
    """A name in the file that is not a packed sample."""


def hash_caption_files(source: Source, listing: Listing, split: str) -> tuple[tuple[str, str], ...]:
    """Return the name and the SHA-256 of each file of additional captions, after reading it.

    Raises:
        UsageError: a file is missing or has another structure, or the split does not accept additional captions.
    """
    key = f"index.{split}.caption_files"
    if split != LEARNT_FROM:
        raise UsageError(f"params: '{key}': students alone read further captions, and learn from 'train': leave it out")
    if listing.classes:
        raise UsageError(
            f"params: '{key}': the split has classes, and no captions that further ones could stand beside"
        )
    return tuple((name, _read(source, name, key)[1]) for name in sorted(source.caption_files))


def load_caption_file(source: Source, name: str, listing: Listing, key: str) -> CaptionsByImage:
    """Return the captions of a file that `index` has listed.

    Raises:
        PipelineError: it changed since, or was not listed.
    """
    captions, digest = _read(source, name, key)
    if dict(listing.caption_files).get(name) != digest:
        raise PipelineError(f"{source.caption_files[name].file}: changed since it was listed. Run `index` again.")
    return captions


def _read(source: Source, name: str, key: str) -> tuple[CaptionsByImage, str]:
    require_name(name, f"params: '{key}'")
    params, key = source.caption_files[name], f"{key}.{name}.file"
    data = read_metadata_file(params.file, key)
    captions = read_caption_table(params.file, data, params.image_column, params.caption_column, key)
    return captions, hashlib.sha256(data).hexdigest()


def match_captions(entries: Sequence[Entry], file_captions: CaptionsByImage) -> MatchedCaptions:
    """Return the captions of samples; an image is named by its key or by its name in the source.

    Empty captions, and duplicates within an image, are dropped.
    """
    counts = dict.fromkeys(("images", "missing", "captions", "unknown", "empty", "duplicates"), 0)
    used: set[str] = set()
    captions = []
    for entry in entries:
        name = entry.key if entry.key in file_captions else entry.origin
        used.add(name)
        own = file_captions.get(name, [])
        cleaned = clean_captions(own)
        unique = tuple(dict.fromkeys(cleaned))
        counts["empty"] += len(own) - len(cleaned)
        counts["duplicates"] += len(cleaned) - len(unique)
        counts["captions"] += len(unique)
        counts["images" if unique else "missing"] += 1
        captions.append(unique)
    unknown = [name for name in file_captions if name not in used]
    counts["unknown"] = len(unknown)
    return MatchedCaptions(tuple(captions), counts, unknown[0] if unknown else "")


def caption_remarks(name: str, matched: MatchedCaptions) -> Iterator[str]:
    """Yield one line for each noteworthy property of a file's captions."""
    counts, what = matched.counts, f"captions '{name}'"
    if counts["missing"]:
        total = counts["images"] + counts["missing"]
        yield f"{what}: {counts['missing']} of {total} images have none there, and go with their own captions"
    if counts["unknown"]:
        first = matched.first_unknown
        yield f"{what}: {counts['unknown']} names are no packed image and are left out, the first: '{first}'"
    if counts["empty"]:
        yield f"{what}: {counts['empty']} captions are empty and are left out"
    if counts["duplicates"]:
        yield f"{what}: {counts['duplicates']} captions stand twice with one image, and count once"


def require_known_names(matched: MatchedCaptions, entries: Iterable[Entry], path: object, key: str) -> None:
    """Refuse a file that names no sample of the split.

    Raises:
        UsageError: shows how images are named in the split and in the file.
    """
    if matched.counts["images"]:
        return
    example = next(iter(entries))
    raise UsageError(
        f"params: '{key}': {path}: no caption of a packed image. Here images are named by key ('{example.key}') or as "
        f"their source calls them ('{example.origin}')"
        + (f", there '{matched.first_unknown}'" if matched.first_unknown else ", and there all captions are empty")
    )
