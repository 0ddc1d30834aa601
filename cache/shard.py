"""Contents of a shard of embeddings, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from cache.arrays import ArrayFile, read_arrays, write_arrays
from cache.errors import DamagedError, StaleError
from cache.manifest import ShardRecord
from cache.strings import StringColumn
from cache.token_shard import PatchShard, WordShard, token_faults, token_shapes

FORMAT = 1


class _Embedded:
    embedding: np.ndarray
    optional: ClassVar[frozenset[str]] = frozenset()

    @property
    def rows(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True)
class ImageShard(_Embedded):
    """One view of each image of a packed shard, in its order."""

    keys: Sequence[str]
    embedding: np.ndarray
    """(n, d) float32, unnormalized."""
    box: np.ndarray
    """(n, 4) float32: left, top, right, bottom as fractions of the decoded image."""
    flip: np.ndarray
    """(n,) bool: whether the view was mirrored."""
    label: np.ndarray | None = None
    """(n,) int64: the class, in a zero-shot split."""

    kind: ClassVar[str] = "image"
    texts: ClassVar[tuple[str, ...]] = ("keys",)
    columns: ClassVar[dict[str, str]] = {"embedding": "<f4", "box": "<f4", "flip": "|b1", "label": "<i8"}
    optional: ClassVar[frozenset[str]] = frozenset({"label"})


@dataclass(frozen=True)
class TextShard(_Embedded):
    """The captions of each image of a packed shard, in its order."""

    keys: Sequence[str]
    embedding: np.ndarray
    """(m, d) float32."""
    offsets: np.ndarray
    """(n+1,) int64: captions offsets[i] to offsets[i+1] belong to image i of this shard."""
    tokens: np.ndarray
    """(m, l) int32, from the teacher's tokenizer."""
    caption_sha: np.ndarray
    """(m,) S64: SHA-256 of each caption's UTF-8."""

    kind: ClassVar[str] = "text"
    texts: ClassVar[tuple[str, ...]] = ("keys",)
    columns: ClassVar[dict[str, str]] = {"embedding": "<f4", "offsets": "<i8", "tokens": "<i4", "caption_sha": "|S64"}


@dataclass(frozen=True)
class PromptShard(_Embedded):
    """Every class name in every template: row c·t + k is class c in template k."""

    embedding: np.ndarray
    """(c·t, d) float32."""
    classes: tuple[str, ...]
    templates: tuple[str, ...]

    kind: ClassVar[str] = "prompts"
    texts: ClassVar[tuple[str, ...]] = ("classes", "templates")
    columns: ClassVar[dict[str, str]] = {"embedding": "<f4"}


Shard = ImageShard | TextShard | PromptShard | PatchShard | WordShard
K = TypeVar("K", ImageShard, TextShard, PromptShard, PatchShard, WordShard)


def write_shard(path: Path, shard: Shard, fingerprint: str) -> ShardRecord:
    """Write a shard made from inputs of this fingerprint, and return its entry in the manifest.

    Raises:
        DamagedError: the arrays are inconsistent, or a row has NaN, infinity or only zeros.
        WriteError: the disk is full, the folder cannot be written, …
    """
    arrays = {name: np.array([text.encode() for text in getattr(shard, name)], dtype="S") for name in shard.texts}
    arrays |= {name: getattr(shard, name) for name in shard.columns if getattr(shard, name) is not None}
    _check(path, type(shard), arrays)
    if not isinstance(shard, PatchShard | WordShard):
        _check_rows(path, shard.embedding)
    sha256 = write_arrays(path, arrays, {**_stamp(type(shard), fingerprint), "name": path.name, "rows": shard.rows})
    return ShardRecord(path.name, shard.rows, sha256)


def read_shard(
    path: Path, kind: type[K], fingerprint: str | None = None, record: ShardRecord | None = None, *, hashed: bool = True
) -> K:
    """Return a shard with memory-mapped arrays.

    Args:
        path: The file.
        kind: The expected class of shard.
        fingerprint: The expected fingerprint of its inputs.
        record: Its entry in the manifest.
        hashed: Whether to hash the content, or to trust size and recorded hash.

    Raises:
        MissingError: there is no such file.
        DamagedError: it changed, was renamed, or is not a shard of this kind.
        StaleError: it was made from other inputs.
    """
    file = read_arrays(path, record.sha256 if record else None, hashed=hashed)
    _check_stamp(file, kind, fingerprint)
    _check(path, kind, file.arrays)
    fields: dict[str, Any] = {name: _decoded(path, file.arrays[name], name) for name in kind.texts}
    fields |= {name: file.arrays[name] for name in kind.columns if name in file.arrays}
    shard = kind(**fields)
    for name, stored in {"name": path.name, "rows": shard.rows}.items():
        if file.attributes.get(name) != stored:
            raise _invalid_shard(path, f"{name} {stored}, but it was written with {name} {file.attributes.get(name)}")
    return shard


def shard_record(path: Path, kind: type[K], fingerprint: str) -> ShardRecord:
    """Return the manifest entry of a finished shard, hashed again, so that files of an earlier run are verified."""
    rows = read_shard(path, kind, fingerprint).rows
    return ShardRecord(path.name, rows, read_arrays(path, hashed=False).sha256)


def _stamp(kind: type[Shard], fingerprint: str) -> dict[str, Any]:
    return {"format": FORMAT, "kind": kind.kind, "fingerprint": fingerprint}


def _check_stamp(file: ArrayFile, kind: type[Shard], fingerprint: str | None) -> None:
    expected = _stamp(kind, fingerprint or str(file.attributes.get("fingerprint")))
    for name, value in expected.items():
        if (stamp := file.attributes.get(name)) != value:
            raise StaleError(
                f"{file.path}: {name} {stamp}, expected {value}. Run `dvc repro embed` to make it again, "
                "or name the store that belongs to these inputs."
            )


def _check(path: Path, kind: type[Shard], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays with other names, types or lengths than those of this kind."""
    names = {*kind.texts, *kind.columns}
    if not names - kind.optional <= arrays.keys() <= names:
        raise _invalid_shard(path, f"arrays {sorted(arrays)}, expected {sorted(names)}")
    if kind in (PatchShard, WordShard) and (fault := token_faults(arrays)):
        raise _invalid_shard(path, fault)
    for name, dtype in kind.columns.items():
        if dtype and name in arrays and arrays[name].dtype != np.dtype(dtype):
            raise _invalid_shard(path, f"'{name}' is {arrays[name].dtype}, expected {np.dtype(dtype)}")
    for name, shape in _shapes(kind, arrays).items():
        if name in arrays and not _fits(arrays[name].shape, shape):
            raise _invalid_shard(path, f"'{name}' is {arrays[name].shape}, expected {shape}")
    if "offsets" in arrays and not _is_partition(arrays["offsets"], len(arrays[next(iter(kind.columns))])):
        raise _invalid_shard(path, "'offsets' do not run from 0 to the number of captions, or of their tokens")


def _shapes(kind: type[Shard], arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each array, given the number of keys and of embedding rows; None is any length."""
    if "codes" in arrays:
        return token_shapes(kind.kind, arrays)
    n, m = arrays[kind.texts[0]].size, len(arrays["embedding"]) if arrays["embedding"].ndim else 0
    rows = {"image": n, "text": m, "prompts": n * arrays[kind.texts[-1]].size}[kind.kind]
    return {
        **dict.fromkeys(kind.texts, (None,)),
        "embedding": (rows, None),
        "box": (n, 4),
        "flip": (n,),
        "label": (n,),
        "offsets": (n + 1,),
        "tokens": (m, None),
        "caption_sha": (m,),
    }


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (None, f) for f, e in zip(shape, expected, strict=True))


def _is_partition(offsets: np.ndarray, total: int) -> bool:
    return bool(offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) >= 0).all())


def _check_rows(path: Path, embedding: np.ndarray) -> None:
    """Refuse invalid embeddings: NaN, infinity, or a row of zeros that was never filled."""
    square = np.einsum("nd,nd->n", embedding, embedding)
    bad = np.flatnonzero(~(np.isfinite(square) & (square > 0)))
    if bad.size:
        raise DamagedError(
            f"{path}: not written: {bad.size} of {len(embedding)} embeddings hold NaN, infinity or only "
            f"zeros, first row {bad[0]}. Run the teacher with precision fp32, and check its weights."
        )


def _decoded(path: Path, texts: np.ndarray, name: str) -> Sequence[str]:
    """Return decoded texts; the keys as a column that decodes on access."""
    try:
        column = StringColumn(texts)
        return column if name == "keys" else tuple(column)
    except UnicodeDecodeError:
        raise _invalid_shard(path, "a key is not UTF-8") from None


def _invalid_shard(path: Path, what: str) -> DamagedError:
    return DamagedError(f"{path}: not a shard of embeddings: {what}. Delete it and run `dvc repro embed`.")
