"""The manifest of a folder of embeddings: contents and provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, StaleError
from cache.fingerprint import fingerprint

FORMAT = 1
TEXT, PROMPTS, FOILS = "text", "prompts", "foils"
"""Parts: captions of the images, class prompts, and the false captions of choice sets."""
PATCHES, WORDS, FOIL_WORDS = "patches/view-00", "words", "foil-words"
"""Parts of tokens: of the center view's places, and of the words of captions and foils."""
_VIEW, _TOKENS = "image/", "patches/"
NAME = "manifest.json"
OTHERS = "teachers"
"""Name of the subfolder with one folder for each teacher but the first."""
CAPTIONS = "captions/"
"""How the names of parts of further captions begin; the name of their file follows."""
_PART = re.compile(r"(image|patches)/view-[0-9]{2,}|text|words|prompts|foils|foil-words|captions/[^\W_][\w.+=@-]*")
OPTIONAL_PARTS = (_TOKENS, WORDS, FOIL_WORDS, CAPTIONS)
"""How the names of parts begin, of tokens and of further captions, that decide nothing that is made of the others."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS: dict[str, type] = {"split": str, "teacher": dict, "source": dict, "versions": dict, "batch": int}
T = TypeVar("T")


@dataclass(frozen=True)
class ShardRecord:
    """One file: its name in the part's folder, its number of embeddings and the SHA-256 of its content."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class ManifestPart:
    """One view, the text or the prompts: the facts that decide its bytes, and its shards in order."""

    fingerprint: str
    facts: dict[str, Any]
    shards: tuple[ShardRecord, ...]

    @property
    def rows(self) -> int:
        """Total number of embeddings."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """The embeddings of a split: `parts` by 'image/view-00', 'text', 'prompts'.

    A choice set also has 'foils'; with tokens there are 'patches/view-00', 'words', 'foil-words'.
    """

    split: str
    teacher: dict[str, Any]
    source: dict[str, Any]
    versions: dict[str, str]
    batch: int
    parts: dict[str, ManifestPart]

    @property
    def pooled_parts(self) -> dict[str, ManifestPart]:
        """The parts without the token parts."""
        return {name: part for name, part in self.parts.items() if not name.startswith(OPTIONAL_PARTS)}

    @property
    def caption_files(self) -> list[str]:
        """Names of the files of further captions that were embedded, sorted."""
        return sorted(name.removeprefix(CAPTIONS) for name in self.parts if is_further_captions(name))

    @property
    def views(self) -> int:
        """Number of cached views of each image."""
        return sum(is_view(name) for name in self.parts)

    @property
    def rows(self) -> int:
        """Number of images."""
        return self.parts[view_name(0)].rows

    @property
    def num_shards(self) -> int:
        """Number of shards of each part except the prompts."""
        return len(self.parts[view_name(0)].shards)

    @property
    def has_captions(self) -> bool:
        """Whether captions were embedded."""
        return TEXT in self.parts

    @property
    def has_prompts(self) -> bool:
        """Whether class prompts were embedded, as in a zero-shot split."""
        return PROMPTS in self.parts

    def has_parts(self, *names: str) -> bool:
        """Whether all of these parts were embedded."""
        return self.parts.keys() >= {*names}

    @property
    def sharded_parts(self) -> list[str]:
        """Sorted names of the parts whose shard i belongs to packed shard i: all except the prompts."""
        return sorted(self.parts.keys() - {PROMPTS})


def shard_name(number: int) -> str:
    """Return the file name of a shard by its number, from 0."""
    return f"shard-{number:05d}.h5"


def view_name(number: int) -> str:
    """Return the name of the part that holds a view of each image, from 0."""
    return f"{_VIEW}view-{number:02d}"


def view_number(part: str) -> int | None:
    """Return which view a part holds, or the tokens of; None of a part of texts."""
    return int(part.rpartition("-")[2]) if part.startswith((_VIEW, _TOKENS)) else None


def is_further_captions(part: str) -> bool:
    """Return whether a part holds captions of a further file."""
    return part.startswith(CAPTIONS)


def is_view(part: str) -> bool:
    """Return whether a part holds a view of each image."""
    return part.startswith(_VIEW)


def split_of(folder: Path) -> str:
    """Return the split that a folder of embeddings should contain, from its path."""
    return folder.parent.parent.name if folder.parent.name == OTHERS else folder.name


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, which marks the folder as complete."""
    write_checksummed_json(folder / NAME, {"format": FORMAT, **asdict(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder; refuse one that was changed or is inconsistent.

    Raises:
        MissingError: there is no manifest: the folder is not complete.
        DamagedError: it was changed after it was written, or has another structure.
        StaleError: it has another format version, or its parts come from different teachers.
    """
    path = folder / NAME
    value = read_checksummed_json(path)
    if value.pop("format", None) != FORMAT:
        raise StaleError(f"{path}: another format than {FORMAT}, which this version reads. Run `dvc repro embed`.")
    try:
        manifest = _manifest(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path}: not a manifest of embeddings ({error}). Run `dvc repro embed`.") from None
    for name, part in manifest.parts.items():
        _check_part(path, name, part, manifest.teacher)
    return manifest


def _manifest(value: Mapping[str, Any]) -> Manifest:
    parts = {_validate_name(_PART, name): _part(part) for name, part in value["parts"].items()}
    manifest = Manifest(**{**value, "parts": parts})
    for name, kind in _FIELDS.items():
        _typed(name, getattr(manifest, name), kind)
    _aligned(parts)
    return manifest


def _part(value: Mapping[str, Any]) -> ManifestPart:
    shards = tuple(ShardRecord(**shard) for shard in value["shards"])
    for number, shard in enumerate(shards):
        _validate_name(_DIGEST, shard.sha256)
        if shard.name != shard_name(number) or _typed("rows", shard.rows, int) < 0:
            raise ValueError(f"shard {number}: '{shard.name}' with {shard.rows} rows")
    return ManifestPart(value["fingerprint"], _typed("facts", value["facts"], dict), shards)


def _aligned(parts: Mapping[str, ManifestPart]) -> None:
    """Check that views are numbered from 0, and that shard i of each part can belong to packed shard i."""
    views = sorted(name for name in parts if is_view(name))
    if views != [view_name(number) for number in range(len(views))] or not views:
        raise ValueError(f"views {views}, expected image/view-00 and on")
    first = parts[views[0]].shards
    for name in views:
        if [shard.rows for shard in parts[name].shards] != [shard.rows for shard in first]:
            raise ValueError(f"'{name}' has other rows in its shards than '{views[0]}'")
    for name in parts.keys() - {PROMPTS}:
        if len(parts[name].shards) != len(first) or not first:
            raise ValueError(f"'{name}' has {len(parts[name].shards)} shards, '{views[0]}' {len(first)}")


def _typed(name: str, value: T, kind: type) -> T:
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


def _validate_name(pattern: re.Pattern[str], name: str) -> str:
    """Return a name that is safe as a path component, or raise."""
    if not pattern.fullmatch(name):
        raise ValueError(f"unexpected name {name!r}")
    return name


def _check_part(path: Path, name: str, part: ManifestPart, teacher: Mapping[str, Any]) -> None:
    """Check that a part's fingerprint matches its facts, and that all parts have the same teacher."""
    if part.fingerprint != (expected := fingerprint(part.facts)):
        raise StaleError(
            f"{path}: '{name}' has fingerprint {part.fingerprint}, its facts {expected}. Run `dvc repro embed`."
        )
    if part.facts.get("teacher") != teacher:
        raise StaleError(
            f"{path}: '{name}' was made by {_short(part.facts.get('teacher'))}, the split by "
            f"{_short(teacher)}. Run `dvc repro embed` so that all parts have one teacher."
        )


def _short(teacher: Any) -> str:
    return f"teacher {fingerprint({'teacher': teacher})} ({teacher.get('model') if teacher else None})"
