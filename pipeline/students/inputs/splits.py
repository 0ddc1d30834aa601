"""Splits that students are trained and validated on: packed images and their teacher embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.ensemble import open_store
from cache.errors import MissingError
from cache.fingerprint import fingerprint
from cache.manifest import CAPTIONS, NAME, PATCHES, TEXT, read_manifest, view_name
from cache.reader import EmbeddingStore
from pipeline.data.packing.caption_shards import require_same_captions
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.pixels import PixelMode, PixelStore, choose_pixel_mode, open_pixel_store
from pipeline.students.inputs.streamed_pixels import StreamedPixels
from pipeline.students.losses.objective import LossParams
from pipeline.students.text_tower import check_tokenizer

SAMPLES = 16
"""Images whose captions are tokenized again to verify that student and teacher tokenizers agree."""


@dataclass(frozen=True)
class EmbeddedSplit:
    """A packed split and its embeddings."""

    packed: PackedSplit
    store: EmbeddingStore

    def facts(self, *, patches: bool = False, captions: Sequence[str] = ()) -> dict[str, Any]:
        """Return its facts for a fingerprint: parameters and shard hashes of each part.

        Tokens count only if a student is trained on `patches`, further captions only if it is trained on these files.
        """
        manifest = self.store.manifest
        optional = ([PATCHES] if patches else []) + [f"{CAPTIONS}{name}" for name in captions]
        used = manifest.pooled_parts | {name: manifest.parts[name] for name in optional if name in manifest.parts}
        parts = {
            name: fingerprint({"part": part.fingerprint, "shards": [shard.sha256 for shard in part.shards]})
            for name, part in used.items()
        }
        domains = {"domains": dict(self.packed.domains)} if self.packed.domains else {}
        return {**parts, "images": fingerprint({"shards": [s.images_sha256 for s in self.packed.shards]}), **domains}

    def pixels(self, size: int, views: int, layout: Layout, runtime: Runtime) -> PixelStore:
        """Return its images, decoded once, for the first `views` views."""
        return open_pixel_store(self.packed, size, self._view_facts(views), layout, runtime)

    def streamed_pixels(self, size: int, views: int, runtime: Runtime) -> StreamedPixels:
        """Return its images for the first views, decoded at each use."""
        return StreamedPixels.open(self.packed, size, self._view_facts(views), runtime)

    def choose_pixels(self, mode: PixelMode, size: int, views: int | None, layout: Layout) -> tuple[PixelMode, str]:
        """Resolve `auto` for this split and this disk, with the reason; other modes are unchanged."""
        if mode != "auto":
            return mode, ""
        return choose_pixel_mode(self.packed, size, self._view_facts(views or self.store.views), layout)

    def _view_facts(self, views: int) -> list[Mapping[str, Any]]:
        parts = self.store.manifest.parts
        return [parts[view_name(view)].facts["view"] for view in range(min(views, self.store.views))]


def open_split(split: str, layout: Layout, runtime: Runtime, teacher: Mapping[str, Any] | None = None) -> EmbeddedSplit:
    """Open a packed and embedded split, with the embeddings of the teacher with these facts, or of the first one.

    Raises:
        CacheError: it is missing, damaged, or was embedded from other images or by another teacher.
    """
    folder = layout.embeddings(split)
    if (folder / NAME).exists() and {"imported"} == read_manifest(folder).source.keys() & {"imported", "packed"}:
        raise MissingError(
            f"{folder}: imported without images, so there are no pixels to learn from. Pack them "
            f"(`index.{split}` in the params, `python cli.py pack --split {split}`), and import again."
        )
    packed = open_packed(layout.packed(split))
    return EmbeddedSplit(packed, open_store(folder, teacher, runtime.verify).require_source(packed.digest, teacher))


def check_patches(split: EmbeddedSplit, student: str, enabled: bool, views: int | None) -> None:
    """Refuse a loss over tokens if there are no tokens, or only those of other views.

    Raises:
        UsageError: one of these.
    """
    store = split.store
    if not enabled:
        raise UsageError(f"distill.loss.dense: '{student}' gives no tokens: set distill.{student}.patches: true")
    if not store.manifest.has_parts(PATCHES):
        raise UsageError(
            f"distill.loss.dense: {store.folder} has no tokens: add 'train' to embed.tokens.splits and run embed again"
        )
    if min(views or store.views, store.views) > 1:
        raise UsageError(
            f"distill.loss.dense: tokens are those of the center view, and the student is shown {store.views} views: "
            "set distill.training.max_views: 1"
        )


def check_caption_mix(split: EmbeddedSplit, mix: Mapping[str, float]) -> None:
    """Refuse shares of files that there are not, or that were not embedded as they are.

    Raises:
        UsageError: no such file; names those that there are.
        StaleError: it was packed anew since it was embedded.
    """
    files = split.packed.caption_files
    for name in mix:
        if name not in files:
            raise UsageError(
                f"params: 'distill.training.caption_mix': no captions '{name}'{did_you_mean(name, files)} "
                f"(index.train.caption_files has {', '.join(files) or 'none'})"
            )
        if split.store.has_captions:
            require_same_captions(split.store.manifest, split.packed.folder, files, name)


def check_readable(splits: Mapping[str, EmbeddedSplit], loss: LossParams, key: str) -> None:
    """Refuse a text tower without captions, without a loss that trains it, or for a teacher with another tokenizer.

    Raises:
        UsageError: one of these.
    """
    for name in ("train", "val"):
        if not splits[name].store.has_captions:
            raise UsageError(f"{key}: the {name} split has no captions to read. Leave `text` out.")
    if not loss.trains_text:
        raise UsageError(f"{key}: no loss teaches it: {', '.join(loss.weights)} look at images only. Add fd.")
    val = splits["val"]
    samples = itertools.islice(val.packed.read(0, "size"), SAMPLES)
    captions = [caption for sample in samples for caption in sample.captions]
    check_tokenizer(val.store.manifest.teacher, captions, val.store.shards(TEXT)[0].tokens[: len(captions)])
