"""Read a folder of embeddings: checked once per process, memory-mapped, opened on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import MissingError, StaleError
from cache.fingerprint import fingerprint
from cache.manifest import FOILS, NAME, PROMPTS, TEXT, WORDS, Manifest, read_manifest, split_of, view_name
from cache.rows import EmbeddingRows, LazyShards, Verify
from cache.shard import PromptShard
from cache.strings import ChainedStrings
from cache.token_rows import PatchRows, WordRows


class EmbeddingStore:
    """Cached embeddings of a split. Cheap to open and to pickle for workers; files are opened on first use."""

    def __init__(self, folder: Path, manifest: Manifest, verify: Verify) -> None:
        self.folder = folder
        self.manifest = manifest
        self._verify: Verify = verify

    @classmethod
    def open(cls, folder: Path, verify: Verify = "hash") -> EmbeddingStore:
        """Open the store of a folder, after checking that every file of its manifest exists.

        Raises:
            MissingError: no manifest, or a shard is missing.
            DamagedError: the manifest was changed. Shards are checked before their first row is used.
            StaleError: the manifest is inconsistent, or belongs to another split than the folder's name.
        """
        store = cls(folder, read_manifest(folder), verify)
        if store.manifest.split != split_of(folder):
            raise StaleError(
                f"{folder}: holds '{store.manifest.split}': it was renamed or lies in another's place. Move it back."
            )
        for part in store.manifest.parts:
            for path in store.shard_paths(part):
                if not path.is_file():
                    raise MissingError(f"{path}: missing, though {folder / NAME} lists it. Run `dvc repro embed`.")
        return store

    def require_source(self, packed: str | None = None, teacher: Mapping[str, Any] | None = None) -> EmbeddingStore:
        """Return this store if it was made from this packed split and by this teacher, if given.

        Raises:
            StaleError: it was not; the message has both values.
        """
        manifest = self.manifest.source.get("packed"), fingerprint({"teacher": self.manifest.teacher})
        expected_sources = packed, fingerprint({"teacher": teacher}) if teacher is not None else None
        for name, recorded, expected in zip(("packed split", "teacher"), manifest, expected_sources, strict=True):
            if expected is not None and recorded != expected:
                raise StaleError(
                    f"{self.folder}: embedded from {name} {recorded}, but {expected} is at hand. "
                    "Run `dvc repro`, or name the folders that belong together."
                )
        return self

    def shard_paths(self, part: str) -> list[Path]:
        """Return the files of a part, in order."""
        return [self.folder / part / shard.name for shard in self.manifest.parts[part].shards]

    def shards(self, part: str) -> LazyShards:
        """Return the shards of a part.

        Raises:
            MissingError: the split has no such part.
        """
        if part not in self.manifest.parts:
            raise MissingError(
                f"{self.folder}: no '{part}', only {', '.join(sorted(self.manifest.parts))}. "
                "Change the section `embed` or the split, and run `dvc repro embed`."
            )
        return LazyShards(self.folder, part, self.manifest, self._verify)

    @property
    def views(self) -> int:
        """Number of cached views of each image."""
        return self.manifest.views

    @property
    def rows(self) -> int:
        """Number of images."""
        return self.manifest.rows

    @property
    def num_shards(self) -> int:
        """Number of shards of the images."""
        return self.manifest.num_shards

    @property
    def has_captions(self) -> bool:
        """Whether captions were embedded."""
        return self.manifest.has_captions

    @property
    def has_prompts(self) -> bool:
        """Whether class prompts were embedded, as in a zero-shot split."""
        return self.manifest.has_prompts

    @property
    def has_classes(self) -> bool:
        """Whether images have labels, and the teacher embedded prompts for them."""
        return self.has_prompts and self.labels is not None

    @cached_property
    def dim(self) -> int:
        """Dimension of an embedding."""
        return self.image().shape[1]

    @cached_property
    def keys(self) -> Sequence[str]:
        """Sorted keys of the images, as in the packed shards."""
        return ChainedStrings([shard.keys for shard in self.shards(view_name(0))])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Classes of the images, (rows,) int64, if the split has them."""
        labels = [shard.label for shard in self.shards(view_name(0))]
        return None if any(label is None for label in labels) else np.concatenate(labels)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(rows+1,) int64: captions offsets[i] to offsets[i+1] belong to image i."""
        return self.offsets_of(TEXT)

    def offsets_of(self, part: str) -> np.ndarray:
        """Return the same of the captions of another part, 'captions/<name>'."""
        shards = list(self.shards(part))
        starts = np.cumsum([0, *(len(shard.embedding) for shard in shards)])
        return np.concatenate(
            [shard.offsets[:-1] + start for shard, start in zip(shards, starts, strict=False)] + [starts[-1:]]
        )

    def image(self, view: int = 0) -> EmbeddingRows:
        """Return the image embeddings of a view."""
        return EmbeddingRows(self.shards(view_name(view)))

    def text(self, part: str = TEXT) -> EmbeddingRows:
        """Return the caption embeddings; the captions of an image are consecutive."""
        return EmbeddingRows(self.shards(part))

    def caption_hashes(self, part: str = TEXT) -> np.ndarray:
        """Return the SHA-256 of the text of each caption; equal texts have equal hashes."""
        return np.concatenate([shard.caption_sha for shard in self.shards(part)])

    def foils(self) -> EmbeddingRows:
        """Return the embeddings of a choice set's foils; the foils of a caption are consecutive."""
        return EmbeddingRows(self.shards(FOILS))

    def patches(self, view: int = 0) -> PatchRows:
        """Return the patch tokens of a view, decoded on access."""
        return PatchRows(self.shards(view_name(view).replace("image", "patches")))

    def words(self, part: str = WORDS) -> WordRows:
        """Return the word tokens of the captions, or with 'foil-words' of the foils."""
        return WordRows(self.shards(part))

    def boxes(self, view: int) -> np.ndarray:
        """Return the boxes of a view, (rows, 4) float32, as fractions of each image."""
        return np.concatenate([shard.box for shard in self.shards(view_name(view))])

    def flips(self, view: int) -> np.ndarray:
        """Return whether a view mirrors each image, (rows,) bool."""
        return np.concatenate([shard.flip for shard in self.shards(view_name(view))])

    def prompts(self) -> PromptShard:
        """Return the embedded class prompts of a zero-shot split."""
        shard: PromptShard = self.shards(PROMPTS)[0]
        return shard
