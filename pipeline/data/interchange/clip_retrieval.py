"""clip-retrieval's folder of embeddings: img_emb/, text_emb/ and metadata/, in numbered partitions.

Row i of images, texts and metadata belong together, so an image with several captions has several rows. The layout is
that of its `clip inference`. The only module that reads parquet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from cache.atomic import atomic_write
from pipeline.data.interchange.external import (
    BLOCK_ROWS,
    CAPTION_SHA,
    ConcatenatedNpy,
    ExternalEmbeddings,
    RowReader,
    check_same_dim,
    checked_digests,
    group_by_name,
    open_embedding_npy,
    read_export_info,
    write_rows,
)
from pipeline.project.errors import UsageError
from pipeline.project.input_files import require_regular

PARTITION_ROWS = 1_000_000
"""Rows per partition: clip-retrieval's default."""
IMAGE, TEXT, METADATA = "img_emb", "text_emb", "metadata"
_SUFFIX = {IMAGE: "npy", TEXT: "npy", METADATA: "parquet"}


@dataclass(frozen=True)
class Metadata:
    """Metadata of all rows: names of images and, if present, captions and classes."""

    names: tuple[str, ...]
    captions: tuple[str, ...] | None
    caption_sha: tuple[str, ...] | None
    labels: tuple[int, ...] | None


def is_clip_retrieval(folder: Path) -> bool:
    """Return whether a folder has clip-retrieval's layout."""
    return (folder / IMAGE).is_dir()


def read_clip_retrieval(folder: Path) -> ExternalEmbeddings:
    """Read a folder of clip-retrieval.

    Raises:
        UsageError: partitions or columns are missing, rows do not match, or an image has two embeddings.
        CacheError: an export of this project was damaged since.
    """
    about, image, tables = read_export_info(folder), _partitions(folder, IMAGE), _partitions(folder, METADATA)
    text = _partitions(folder, TEXT) if (folder / TEXT).is_dir() else {}
    _same_partitions(folder, image, {METADATA: tables, **({TEXT: text} if text else {})})
    images = _stack(image)
    texts = _stack(text) if text else None
    table = _read_tables(list(tables.values()), image=images, text=texts)
    names, order, offsets = group_by_name(table.names)
    _refuse_two_embeddings(images, names, order, offsets)
    first = order[offsets[:-1]]
    return ExternalEmbeddings(
        names,
        images,
        first,
        texts,
        order if texts else order[:0],
        offsets if texts else np.zeros_like(offsets),
        table.captions,
        None if table.labels is None else np.array(table.labels, np.int64)[first],
        None,
        (*image.values(), *text.values(), *tables.values()),
        str(about.get("model", "")),
        table.caption_sha,
    )


def write_clip_retrieval(
    folder: Path,
    columns: Mapping[str, Sequence[str] | Sequence[int]],
    rows: Mapping[str, tuple[Int64[np.ndarray, " r"], RowReader]],
    dim: int,
    *,
    unit: bool,
) -> None:
    """Write metadata columns and, for `img_emb` and `text_emb`, the given rows."""
    total = len(next(iter(columns.values())))
    count = -(-total // PARTITION_ROWS)
    digits = len(str(count))
    for number in range(count):
        at = slice(number * PARTITION_ROWS, (number + 1) * PARTITION_ROWS)
        name = f"{number:0{digits}d}"
        for side, (numbers, take) in rows.items():
            write_rows(folder / side / f"{side}_{name}.npy", numbers[at], dim, take, unit=unit)
        with atomic_write(folder / METADATA / f"{METADATA}_{name}.parquet") as temporary, temporary.open("wb") as file:
            pq.write_table(pa.table({column: values[at] for column, values in columns.items()}), file)


def _partitions(folder: Path, side: str) -> dict[int, Path]:
    """Return the files of one side, sorted by the number in their names."""
    pattern = re.compile(rf"{side}_([0-9]+)\.{_SUFFIX[side]}")
    inside = sorted((folder / side).iterdir()) if (folder / side).is_dir() else []
    partitions = {int(match[1]): path for path in inside if (match := pattern.fullmatch(path.name))}
    if not partitions:
        raise UsageError(f"{folder / side}: no {side}_0.{_SUFFIX[side]}: not a whole folder of clip-retrieval's")
    return dict(sorted(partitions.items()))


def _same_partitions(folder: Path, image: Mapping[int, Path], others: Mapping[str, Mapping[int, Path]]) -> None:
    for side, partitions in others.items():
        if odd := sorted(image.keys() ^ partitions.keys()):
            raise UsageError(f"{folder}: partition {odd[0]} is in one of {IMAGE} and {side} only: was it cut short?")


def _stack(files: Mapping[int, Path]) -> ConcatenatedNpy:
    return ConcatenatedNpy(tuple(files.values()), tuple(open_embedding_npy(path) for path in files.values()))


def _read_tables(paths: Sequence[Path], *, image: ConcatenatedNpy, text: ConcatenatedNpy | None) -> Metadata:
    tables = [_read_table(path) for path in paths]
    for number, (path, table) in enumerate(zip(paths, tables, strict=True)):
        for stack in (image, text):
            if stack is not None and len(stack.arrays[number]) != len(table):
                raise UsageError(
                    f"{stack.files[number]}: {len(stack.arrays[number])} rows, but {path} has {len(table)}: "
                    "row i of both must belong together"
                )
    if text:
        check_same_dim(image, text)
    column = "key" if all("key" in table.column_names for table in tables) else "image_path"
    names = _column(paths, tables, column)
    contents, digests = (
        _column(paths, tables, name) if text and name in tables[0].column_names else None
        for name in ("caption", CAPTION_SHA)
    )
    labels = [value for table in tables for value in table["label"].to_pylist()] if _labeled(tables) else None
    return Metadata(names, contents, checked_digests(paths[0], digests), None if labels is None else tuple(labels))


def _read_table(path: Path) -> pa.Metadata:
    try:
        require_regular(path)
        with path.open("rb") as file:  # pyarrow opens only UTF-8 paths
            return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path}: not a parquet file that can be read: {str(error).splitlines()[0][:120]}") from None


def _column(paths: Sequence[Path], tables: Sequence[pa.Metadata], name: str) -> tuple[str, ...]:
    """Return one text column over all partitions; refuse missing values."""
    column_values: list[str] = []
    for path, table in zip(paths, tables, strict=True):
        if name not in table.column_names:
            raise UsageError(f"{path}: no column '{name}', found {', '.join(table.column_names) or 'none'}")
        values = table[name].to_pylist()
        if not all(isinstance(value, str) and (value or name == "caption") for value in values):
            raise UsageError(f"{path}: column '{name}' has rows without text: what are their embeddings of?")
        column_values += values
    return tuple(column_values)


def _labeled(tables: Sequence[pa.Metadata]) -> bool:
    return all("label" in table.column_names and pa.types.is_integer(table["label"].type) for table in tables)


def _refuse_two_embeddings(
    image: ConcatenatedNpy, names: Sequence[str], order: Int64[np.ndarray, " m"], offsets: Int64[np.ndarray, " n+1"]
) -> None:
    """Compare each repeated row of an image with its first one."""
    owner = np.repeat(np.arange(len(names)), np.diff(offsets))
    later = np.flatnonzero(order != order[offsets[:-1]][owner])
    for start in range(0, len(later), BLOCK_ROWS):
        at = later[start : start + BLOCK_ROWS]
        differs = (image.take(order[at]) != image.take(order[offsets[owner[at]]])).any(axis=1)
        if differs.any():
            name = names[owner[at[differs.argmax()]]]
            raise UsageError(f"{image.files[0].parent}: '{name}' stands twice, with different embeddings")
