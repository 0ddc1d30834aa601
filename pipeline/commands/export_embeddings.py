"""Write the embeddings of a split for other tools: clip-retrieval's folder, or plain `.npy` files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Int64

from cache.atomic import atomic_directory
from cache.manifest import NAME
from cache.reader import EmbeddingStore
from pipeline.data.interchange.clip_retrieval import write_clip_retrieval
from pipeline.data.interchange.external import CAPTION_SHA, EXPORT_INFO, RowReader, write_about
from pipeline.data.interchange.npy_folder import CAPTIONS, IMAGE, LABEL, OFFSETS, PROMPTS, TEXT, write_npy_folder
from pipeline.data.packing.packed import open_packed
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime

Format = Literal["clip-retrieval", "npy"]
Captions = Literal["all", "first"]


@dataclass(frozen=True)
class ExportEmbeddingsResult:
    """Result of an export of embeddings."""

    folder: Path
    images: int
    rows: int
    """Number of metadata rows, or of texts."""
    omissions: tuple[str, ...]
    """Data that the format or the options omit."""

    @property
    def lines(self) -> list[str]:
        """Return lines for the terminal."""
        first = f"{self.folder}: {self.images} images, {self.rows} rows"
        return [first, *(f"note: {line}" for line in self.omissions)]


@dataclass(frozen=True)
class _Words:
    """Source names and captions, which only the packed split has."""

    sources: tuple[str, ...]
    captions: tuple[str, ...]


def parse_embedding_export_options(model_format: str, captions: str) -> tuple[Format, Captions]:
    """Return the two options, checked; raises UsageError."""
    for name, value, choices in (
        ("--format", model_format, get_args(Format)),
        ("--captions", captions, get_args(Captions)),
    ):
        if value not in choices:
            raise UsageError(f"{name} {value}: expected {' or '.join(choices)}")
    return cast("Format", model_format), cast("Captions", captions)


def export_embeddings(
    split: str,
    out: Path,
    form: Format,
    layout: Layout,
    runtime: Runtime,
    *,
    captions: Captions = "all",
    unit: bool = False,
) -> ExportEmbeddingsResult:
    """Write the center view and the texts of a split.

    Rows are unnormalized float32, so that an import restores every bit; with `unit`, unit-length float16, as
    clip-retrieval writes them.

    Raises:
        CacheError: the split was never embedded, is damaged, or the packed images changed.
        PipelineError: an image has no caption, which clip-retrieval's format requires.
    """
    store = EmbeddingStore.open(layout.embeddings(split), runtime.verify)
    words = _words(store, layout)
    selected = _chosen(store, captions)
    with atomic_directory(out, EXPORT_INFO) as building:
        if form == "npy":
            rows = _plain(store, words, selected, building, unit)
        else:
            rows = _clip_retrieval(store, words, selected, building, unit)
        write_about(building, _export_info(store, unit))
    return ExportEmbeddingsResult(out, store.rows, rows, tuple(_omissions(store, words, form, captions, unit)))


def _words(store: EmbeddingStore, layout: Layout) -> _Words | None:
    """Return source names and captions, if the packed split that was embedded exists."""
    folder = layout.packed(store.manifest.split)
    if not (folder / NAME).exists():
        return None
    packed = open_packed(folder)
    store.require_source(packed.digest)
    samples = [(s.source, s.captions) for number in range(len(packed.shards)) for s in packed.read(number, "size")]
    return _Words(
        tuple(source for source, _ in samples), tuple(caption for _, captions in samples for caption in captions)
    )


def _captions(store: EmbeddingStore, words: _Words | None) -> tuple[str, Sequence[str]]:
    """Return a column name and the text of each caption or, without texts, its hash, which identifies equal texts."""
    if words:
        return "caption", words.captions
    return CAPTION_SHA, [sha.decode() for sha in store.caption_hashes()]


def _chosen(store: EmbeddingStore, captions: Captions) -> list[Int64[np.ndarray, " _"]] | None:
    """Return the text rows of each image: all of them, or the first."""
    if not store.has_captions:
        return None
    pairs = zip(store.offsets[:-1], store.offsets[1:], strict=True)
    return [np.arange(start, end if captions == "all" else min(end, start + 1)) for start, end in pairs]


def _plain(store: EmbeddingStore, words: _Words | None, selected: list[Any] | None, folder: Path, unit: bool) -> int:
    rows: dict[str, tuple[Int64[np.ndarray, " r"], RowReader]] = {
        IMAGE: (np.arange(store.rows), store.image().__getitem__)
    }
    numbers, names = {}, {"keys": store.keys}
    if selected is not None:
        text = np.concatenate(selected)
        rows[TEXT] = text, store.text().__getitem__
        numbers[OFFSETS] = np.concatenate([[0], np.cumsum([len(each) for each in selected])])
        name, captions = _captions(store, words)
        names[CAPTIONS if name == "caption" else name] = [captions[row] for row in text]
    if store.labels is not None:
        numbers[LABEL] = store.labels
    if store.has_prompts:
        prompts = store.prompts()
        rows[PROMPTS] = np.arange(len(prompts.embedding)), prompts.embedding.__getitem__
        names |= {"classes": list(prompts.classes), "templates": list(prompts.templates)}
    write_npy_folder(folder, rows, numbers, names, unit=unit)
    return len(rows[TEXT][0]) if TEXT in rows else store.rows


def _clip_retrieval(
    store: EmbeddingStore, words: _Words | None, selected: list[Any] | None, folder: Path, unit: bool
) -> int:
    images = np.arange(store.rows)
    rows: dict[str, tuple[Int64[np.ndarray, " r"], RowReader]] = {}
    columns: dict[str, list[Any]] = {}
    if selected is not None:
        counts = np.array([len(each) for each in selected])
        _refuse_without(store, counts)
        images, text = np.repeat(images, counts), np.concatenate(selected)
        rows["text_emb"] = text, store.text().__getitem__
        name, captions = _captions(store, words)
        columns[name] = [captions[row] for row in text]
    rows["img_emb"] = images, store.image().__getitem__
    sources = words.sources if words else store.keys
    columns["image_path"] = [sources[image] for image in images.tolist()]
    columns["key"] = [store.keys[image] for image in images.tolist()]
    if store.labels is not None:
        columns["label"] = store.labels[images].tolist()
    write_clip_retrieval(folder, columns, rows, store.dim, unit=unit)
    return len(images)


def _refuse_without(store: EmbeddingStore, counts: Int64[np.ndarray, " n"]) -> None:
    if (counts == 0).any():
        bare = np.flatnonzero(counts == 0)
        raise PipelineError(
            f"{store.folder}: {len(bare)} images have no caption, first '{store.keys[bare[0]]}', and clip-retrieval's "
            "rows are pairs. Use --format npy."
        )


def _export_info(store: EmbeddingStore, unit: bool) -> Mapping[str, Any]:
    manifest = store.manifest
    return {
        "model": manifest.teacher.get("model", ""),
        "split": manifest.split,
        "lengths": "1, in float16" if unit else "as the teacher gave them, in float32",
        "teacher": manifest.teacher,
    }


def _omissions(store: EmbeddingStore, words: _Words | None, form: Format, captions: Captions, unit: bool) -> list[str]:
    lines = []
    if store.views > 1:
        lines.append(f"the center view only, of {store.views}")
    if unit:
        lines.append("lengths and half of the digits are gone: they cannot be imported again as they were")
    elif form == "clip-retrieval":
        lines.append("lengths are kept: pass --unit for an index by inner product, as clip-retrieval builds it")
    if captions == "first" and store.has_captions:
        lines.append("the first caption of each image only")
    if form == "clip-retrieval" and store.has_prompts:
        lines.append("class prompts have no place in clip-retrieval's folder: --format npy has one")
    if words is None:
        lines.append("the split is not packed: images are named by key, and captions by the hash of their words")
    return lines
