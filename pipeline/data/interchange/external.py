"""Embeddings in files of other tools: memory-mapped, checked `.npy` arrays and their metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from cache.atomic import atomic_write
from cache.checksums import list_files, read_checksums
from cache.normalization import l2_normalize
from cache.shard import PromptShard
from pipeline.project.errors import UsageError
from pipeline.project.input_files import require_regular

BLOCK_ROWS = 8192
"""Rows in memory at a time: 16 MB of float32 at 512 dimensions."""
EXPORT_INFO = "wclip-kd.json"
"""File with the description of an export of this project; a folder without it is never replaced."""
CAPTION_SHA = "caption_sha"
"""Key of the hashes of texts in an export without captions."""

RowReader = Callable[[Int64[np.ndarray, " b"]], Float[np.ndarray, "b d"]]


@dataclass(frozen=True)
class ConcatenatedNpy:
    """Rows of several `.npy` files, concatenated."""

    files: tuple[Path, ...]
    arrays: tuple[Float[np.ndarray, "_ d"], ...]

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)

    @property
    def dim(self) -> int:
        """Dimension of a row."""
        return int(self.arrays[0].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of lowest precision among the files."""
        return min((array.dtype for array in self.arrays), key=lambda dtype: dtype.itemsize)

    def take(self, rows: Int64[np.ndarray, " b"]) -> Float[np.ndarray, "b d"]:
        """Return rows as float32.

        Raises:
            UsageError: a row has NaN, infinity or only zeros; the message names the row and the file.
        """
        taken_rows = np.empty((len(rows), self.dim), np.float32)
        start = 0
        for path, array in zip(self.files, self.arrays, strict=True):
            here = np.flatnonzero((rows >= start) & (rows < start + len(array)))
            taken_rows[here] = array[rows[here] - start]
            _check_finite(path, taken_rows[here], rows[here] - start)
            start += len(array)
        return taken_rows


@dataclass(frozen=True)
class ExternalEmbeddings:
    """Imported embeddings by image: images sorted by name; the texts of an image are consecutive."""

    image_names: tuple[str, ...]
    image: ConcatenatedNpy
    image_rows: Int64[np.ndarray, " n"]
    """Row of each image in `image`."""
    text: ConcatenatedNpy | None
    text_rows: Int64[np.ndarray, " m"]
    offsets: Int64[np.ndarray, " n+1"]
    """Texts of image i are `text_rows[offsets[i]:offsets[i + 1]]`."""
    captions: tuple[str, ...] | None
    """Captions by their rows in `text`, if known."""
    labels: Int64[np.ndarray, " n"] | None
    prompts: PromptShard | None
    files: tuple[Path, ...]
    """All files that were read, in order; their hashes identify the import."""
    model_name: str = ""
    """Name of the model, according to the files."""
    caption_sha: tuple[str, ...] | None = None
    """SHA-256 of the captions by their rows in `text`, from an export of this project without captions."""


def open_embedding_npy(path: Path) -> Float[np.ndarray, "n d"]:
    """Map a `.npy` file of embeddings; Python objects in it are never unpickled.

    Raises:
        UsageError: no such file, incomplete, or not rows of float16, float32 or float64.
    """
    array = open_array(path, 2, "one row an embedding")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise UsageError(f"{path}: holds {array.dtype}, expected embeddings in float16, float32 or float64")
    return array


def open_array(path: Path, axes: int, what: str) -> np.ndarray:
    """Map a numeric `.npy` file with this number of axes; raises UsageError as `open_embedding_npy`."""
    try:
        require_regular(path)
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, TypeError, OverflowError) as error:
        reason = "it holds Python objects" if "Python objects" in str(error) else " ".join(str(error).split())[:120]
        raise UsageError(f"{path}: not an .npy array of numbers that can be read: {reason}") from None
    if array.ndim != axes or 0 in array.shape:
        raise UsageError(f"{path}: shape {array.shape}, expected {axes} axes: {what}")
    return array


def check_same_dim(image: ConcatenatedNpy, text: ConcatenatedNpy) -> None:
    """Refuse images and texts of different dimensions; raises UsageError."""
    if image.dim != text.dim:
        raise UsageError(
            f"{text.files[0]}: {text.dim} dimensions, but {image.files[0]} has {image.dim}: are they of one model?"
        )


def group_by_name(names: Sequence[str]) -> tuple[tuple[str, ...], Int64[np.ndarray, " m"], Int64[np.ndarray, " n+1"]]:
    """Return the distinct names sorted, the rows in that order (stable), and the first row of each name."""
    order = sorted(range(len(names)), key=names.__getitem__)
    starts = [at for at, row in enumerate(order) if not at or names[row] != names[order[at - 1]]]
    distinct = tuple(names[order[at]] for at in starts)
    return distinct, np.array(order, np.int64), np.array([*starts, len(order)], np.int64)


def write_rows(path: Path, rows: Int64[np.ndarray, " n"], dim: int, take: RowReader, *, unit: bool) -> None:
    """Write rows as one `.npy` file: unchanged float32, or unit-length float16."""
    with atomic_write(path) as temporary:
        shape, dtype = (len(rows), dim), np.float16 if unit else np.float32
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = take(rows[start : start + BLOCK_ROWS])
            array[start : start + BLOCK_ROWS] = l2_normalize(block) if unit else block
        array.flush()


def write_about(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the description of an export, with the hash of every file in its folder."""
    list_files(folder, facts, EXPORT_INFO)


def read_export_info(folder: Path) -> dict[str, Any]:
    """Return the description of an export of this project, after checking its files; None for other folders.

    Raises:
        MissingError: a listed file does not exist.
        DamagedError: a file, or the list, was changed.
    """
    if not (folder / EXPORT_INFO).exists():
        return {}
    listed = read_checksums(
        folder / EXPORT_INFO, f"Export it again, or delete {EXPORT_INFO} if it was changed on purpose."
    )
    for name in listed.sha256:
        listed.verify(name)
    return listed.facts


def checked_digests(path: Path, digests: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return hashes of captions; raises UsageError if one is not a SHA-256."""
    for digest in digests or ():
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UsageError(f"{path}: '{CAPTION_SHA}' holds '{digest[:70]}', expected 64 hexadecimal digits each")
    return digests


def _check_finite(path: Path, rows: Float[np.ndarray, "b d"], numbers: Int64[np.ndarray, " b"]) -> None:
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1))
    if wrong.size:
        raise UsageError(
            f"{path}: row {numbers[wrong[0]]} holds NaN, infinity or only zeros, as do {wrong.size} of the "
            f"{len(rows)} rows around it: nothing was imported"
        )
