"""Embeddings as plain `.npy`: one file, or a folder of them with their names.

    image.npy (n, d)   text.npy (m, d)   offsets.npy (n+1)   label.npy (n)   prompts.npy (c·t, d)   names.json

Only image.npy is required. `names.json` has lists: `keys` (n), `captions` (m), `classes` (c), `templates` (t);
`caption_sha` (m) instead of captions if an export did not know them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from cache.atomic import atomic_write, write_json
from cache.shard import PromptShard
from pipeline.data.interchange.external import (
    CAPTION_SHA,
    ConcatenatedNpy,
    ExternalEmbeddings,
    RowReader,
    check_same_dim,
    checked_digests,
    group_by_name,
    open_array,
    open_embedding_npy,
    read_export_info,
    write_rows,
)
from pipeline.project.errors import UsageError
from pipeline.project.input_files import MAX_CAPTIONS_BYTES, read_input

IMAGE, TEXT, OFFSETS, LABEL, PROMPTS, NAMES = (
    "image.npy",
    "text.npy",
    "offsets.npy",
    "label.npy",
    "prompts.npy",
    "names.json",
)
CAPTIONS = "captions"


def read_npy_file(path: Path, text: Path | None = None) -> ExternalEmbeddings:
    """Read one `.npy` of images, named by their row numbers, and optionally one with a text for each.

    Raises:
        UsageError: a file cannot be read, or the two do not match.
    """
    image = ConcatenatedNpy((path,), (open_embedding_npy(path),))
    texts = ConcatenatedNpy((text,), (open_embedding_npy(text),)) if text else None
    count = len(image)
    rows = np.arange(count)
    if texts:
        check_same_dim(image, texts)
        if len(texts) != count:
            raise UsageError(f"{text}: {len(texts)} rows, but {path} has {count}: row i of both must belong together")
    names = tuple(f"{row:0{max(8, len(str(count)))}d}" for row in range(count))
    offsets = np.arange(count + 1) if texts else np.zeros(count + 1, np.int64)
    files = (path, text) if text else (path,)
    return ExternalEmbeddings(names, image, rows, texts, rows if texts else rows[:0], offsets, None, None, None, files)


def read_npy_folder(folder: Path) -> ExternalEmbeddings:
    """Read a folder of `.npy` files.

    Raises:
        UsageError: a file cannot be read, or the files do not match.
        CacheError: an export of this project was damaged since.
    """
    path, about = folder / TEXT, read_export_info(folder)
    listed = _names(folder)
    image = ConcatenatedNpy((folder / IMAGE,), (open_embedding_npy(folder / IMAGE),))
    text = ConcatenatedNpy((path,), (open_embedding_npy(path),)) if path.exists() else None
    count = len(image)
    keys = _listed(folder, listed, "keys", count) or read_npy_file(folder / IMAGE).image_names
    starts = _starts(folder, count, text)
    captions, digests = (_listed(folder, listed, name, len(text)) if text else None for name in (CAPTIONS, CAPTION_SHA))
    names, order, distinct = group_by_name(keys)
    if len(distinct) != count + 1:
        raise UsageError(f"{folder / NAMES}: {count - len(names)} of its {count} keys stand twice")
    counts = np.diff(starts)[order]
    text_rows = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in order] or [order])
    labels = _integers(folder / LABEL, count) if (folder / LABEL).exists() else None
    return ExternalEmbeddings(
        names,
        image,
        order,
        text,
        text_rows,
        np.concatenate([[0], np.cumsum(counts)]),
        captions,
        None if labels is None else labels[order],
        _prompts(folder, listed, image.dim),
        tuple(folder / name for name in (IMAGE, TEXT, OFFSETS, LABEL, PROMPTS, NAMES) if (folder / name).exists()),
        str(about.get("model", "")),
        checked_digests(folder / NAMES, digests),
    )


def write_npy_folder(
    folder: Path,
    rows: Mapping[str, tuple[Int64[np.ndarray, " r"], RowReader]],
    numbers: Mapping[str, Int64[np.ndarray, " k"]],
    names: Mapping[str, Sequence[str]],
    *,
    unit: bool,
) -> None:
    """Write the given rows by file name, numeric arrays, and the lists of names.json."""
    for name, (row_numbers, take) in rows.items():
        write_rows(folder / name, row_numbers, take(row_numbers[:1]).shape[1], take, unit=unit)
    for name, values in numbers.items():
        with atomic_write(folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, values.astype(np.int64))
    write_json(folder / NAMES, {name: list(values) for name, values in names.items()})


def _names(folder: Path) -> dict[str, Any]:
    path = folder / NAMES
    if not path.exists():
        return {}
    try:
        value = json.loads(read_input(path, MAX_CAPTIONS_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected lists by the names keys, captions, classes, templates")
    return value


def _listed(folder: Path, names: Mapping[str, Any], key: str, count: int | None) -> tuple[str, ...] | None:
    value = names.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{folder / NAMES}: '{key}': expected a list of names")
    if count is not None and len(value) != count:
        raise UsageError(f"{folder / NAMES}: '{key}': {len(value)} names for {count} rows")
    return tuple(value)


def _starts(folder: Path, count: int, text: ConcatenatedNpy | None) -> Int64[np.ndarray, " n+1"]:
    """Return the first text of each image: from offsets.npy, or one text per image."""
    if text is None:
        return np.zeros(count + 1, np.int64)
    if (folder / OFFSETS).exists():
        starts = _integers(folder / OFFSETS, count + 1)
        if starts[0] != 0 or starts[-1] != len(text) or (np.diff(starts) < 0).any():
            raise UsageError(f"{folder / OFFSETS}: expected numbers that rise from 0 to the {len(text)} rows of {TEXT}")
        return starts
    if len(text) != count:
        raise UsageError(f"{folder / TEXT}: {len(text)} rows for {count} images, and no {OFFSETS} that says whose")
    return np.arange(count + 1)


def _integers(path: Path, count: int) -> Int64[np.ndarray, " k"]:
    array = open_array(path, 1, f"{count} whole numbers")
    if array.dtype.kind not in "iu" or len(array) != count:
        raise UsageError(f"{path}: {len(array)} of {array.dtype}, expected {count} whole numbers")
    return np.asarray(array, np.int64)


def _prompts(folder: Path, names: Mapping[str, Any], dim: int) -> PromptShard | None:
    path = folder / PROMPTS
    if not path.exists():
        return None
    rows = open_embedding_npy(path)
    classes = _listed(folder, names, "classes", None) or ()
    templates = _listed(folder, names, "templates", None) or ()
    if rows.shape != (len(classes) * len(templates), dim):
        raise UsageError(
            f"{path}: shape {rows.shape}, expected ({len(classes)} classes · {len(templates)} templates, {dim}), "
            f"as {NAMES} and {IMAGE} say"
        )
    return PromptShard(ConcatenatedNpy((path,), (rows,)).take(np.arange(len(rows))), classes, templates)
