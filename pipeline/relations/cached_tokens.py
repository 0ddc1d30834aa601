"""Tokens of a choice set in the cache: memory-mapped, decoded on access."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Float, Int

from cache.errors import DamagedError
from cache.manifest import FOIL_WORDS, FOILS, TEXT, WORDS
from cache.reader import EmbeddingStore
from cache.rows import EmbeddingRows
from cache.token_rows import PatchRows, WordRows
from pipeline.project.errors import UsageError
from pipeline.relations.choice_sets import ChoiceSet
from pipeline.relations.params import TOKENLESS, ScorerParams, functional_rows
from pipeline.relations.scorers import ImageTokens, TextTokens
from pipeline.relations.token_arrays import shuffle_patches

TEXT_PARTS = {TEXT: WORDS, FOILS: FOIL_WORDS}
"""Parts with pooled captions and foils, and the parts with their words."""


@dataclass(frozen=True)
class CaptionList(ChoiceSet):
    """Texts of a split without questions."""

    listed: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Return the texts as they are listed."""
        return self.listed


@dataclass(frozen=True)
class CachedTokens:
    """Images and texts of an embedded split, as inputs of a scorer."""

    store: EmbeddingStore
    choices: ChoiceSet
    params: ScorerParams
    truncated: bool = False
    """Whether a text with more tokens than columns is truncated; refused if captions answer questions."""

    def images(self, rows: Int[np.ndarray, " b"]) -> ImageTokens:
        """Return the tokens of some images; without patches for a scorer of pooled vectors."""
        pooled = torch.from_numpy(np.asarray(self._images[rows], np.float32))
        if self.params.kind in TOKENLESS:
            return ImageTokens(pooled, torch.zeros(len(rows), 0, pooled.shape[1]))
        patches = self._patches[rows]
        if self.params.shuffle_patches:
            patches = np.stack([shuffle_patches(one, int(row)) for one, row in zip(patches, rows, strict=True)])
        return ImageTokens(pooled, torch.from_numpy(patches))

    def texts(self, rows: Int[np.ndarray, " b"]) -> TextTokens:
        """Return the tokens of some texts.

        Raises:
            UsageError: a text has more tokens than the scorer has columns, and texts are not truncated.
        """
        pooled = torch.from_numpy(np.stack([self._pooled(int(row)) for row in rows]))
        columns, dim = self.params.columns, pooled.shape[1]
        words = np.zeros((len(rows), columns, dim), np.float32)
        valid, number = np.zeros(words.shape[:2], bool), np.full(words.shape[:2], -1, np.int64)
        for i, row in enumerate(rows if self.params.kind not in TOKENLESS else ()):
            part, at = self._places[int(row)]
            tokens, word = self._words[part][at]
            picked = self._columns(int(row), len(tokens))
            words[i, : len(picked)], valid[i, : len(picked)], number[i, : len(picked)] = (
                tokens[picked],
                True,
                word[picked],
            )
        captions = [self.choices.texts[row] for row in rows]
        marked = functional_rows(captions, number, self.params.functional_column, self.params.functional_words)
        return TextTokens(pooled, torch.from_numpy(words), torch.from_numpy(valid), torch.from_numpy(marked))

    def words_of_tokens(self, row: int) -> Int[np.ndarray, " t"]:
        """Return for each token of a text the index of its word; −1: none."""
        part, at = self._places[row]
        return self._words[part][at][1]

    def without_tokens(self) -> CachedTokens:
        """Return the same for a scorer of pooled vectors, without reading tokens."""
        return replace(self, params=ScorerParams(kind="cosine"))

    def _pooled(self, row: int) -> Float[np.ndarray, " d"]:
        part, at = self._places[row]
        return np.asarray(self._texts[part][at], np.float32)

    def _columns(self, row: int, tokens: int) -> Int[np.ndarray, " t"]:
        """Return the tokens of a text for the columns: all, or truncated as in CLIP, the first ones and the last.

        The last is end of text, which attended to the omitted ones.
        """
        columns = self.params.columns
        if tokens <= columns:
            return np.arange(tokens)
        if not self.truncated:
            raise UsageError(
                f"params: 'relate': {self.choices.texts[row]!r} has {tokens} tokens, and the scorer "
                f"{columns} columns for them: raise its `columns`"
            )
        return np.array([*range(columns - 1), tokens - 1])

    # Opened once: every new reader of a part would map its files again.
    @cached_property
    def _images(self) -> EmbeddingRows:
        return self.store.image()

    @cached_property
    def _patches(self) -> PatchRows:
        return self.store.patches()

    @cached_property
    def _texts(self) -> dict[str, EmbeddingRows]:
        return {part: EmbeddingRows(self.store.shards(part)) for part in self._parts}

    @cached_property
    def _words(self) -> dict[str, WordRows]:
        return {part: self.store.words(TEXT_PARTS[part]) for part in self._parts}

    @property
    def _parts(self) -> list[str]:
        """Captions, and foils if the split is a choice set."""
        return [part for part in TEXT_PARTS if self.store.manifest.has_parts(part)]

    @property
    def missing(self) -> list[str]:
        """Texts of the questions that are not embedded."""
        return [text for text in self.choices.texts if _sha(text) not in self._rows]

    @cached_property
    def _places(self) -> list[tuple[str, int]]:
        """Return part and row of each text."""
        if missing := self.missing:
            raise DamagedError(
                f"{self.store.folder}: {len(missing)} texts of the packed split are not embedded, the first: "
                f"{missing[0]!r}. Run `dvc repro embed`."
            )
        return [self._rows[_sha(text)] for text in self.choices.texts]

    @cached_property
    def _rows(self) -> dict[bytes, tuple[str, int]]:
        """Return the first row of each text by its SHA-256: in captions, then in foils."""
        where: dict[bytes, tuple[str, int]] = {}
        for part in self._parts:
            hashes = (bytes(sha) for shard in self.store.shards(part) for sha in shard.caption_sha)
            for row, sha in enumerate(hashes):
                where.setdefault(sha, (part, row))
        return where


def _sha(text: str) -> bytes:
    return sha256(text.encode()).hexdigest().encode()


@dataclass(frozen=True)
class StudentTokens:
    """A student's images and its teacher's cached texts, in the same space."""

    cached: CachedTokens
    pooled: Float[np.ndarray, "n d"]
    patches: Float[np.ndarray, "n p d"]

    @property
    def store(self) -> EmbeddingStore:
        """The teacher's cache."""
        return self.cached.store

    @property
    def choices(self) -> ChoiceSet:
        """The questions."""
        return self.cached.choices

    def without_tokens(self) -> StudentTokens:
        """Return the same for a scorer of pooled vectors."""
        return replace(self, cached=self.cached.without_tokens())

    def images(self, rows: Int[np.ndarray, " b"]) -> ImageTokens:
        """Return the student's tokens of some images."""
        patches = torch.from_numpy(self.patches[rows].astype(np.float32))
        return ImageTokens(torch.from_numpy(self.pooled[rows]), patches)

    def texts(self, rows: Int[np.ndarray, " b"]) -> TextTokens:
        """Return the teacher's tokens of some texts."""
        return self.cached.texts(rows)
