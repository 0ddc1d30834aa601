"""From pixels and captions to shards of tokens, and the codec that they are written by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator

from cache.fingerprint import sha256_bytes
from cache.token_codecs import EncodedTokens, TokenCodec, TokenFormat, encode_tokens
from cache.token_shard import PatchShard, WordShard, codec_fields
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import ViewParams
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.params import ParamsSection
from pipeline.teacher.shards import preprocess
from pipeline.teacher.tokens import TokenReader, words_of_tokens

FIRST_IMAGES = 512
"""From which a codec is fitted, and the tokens of some are held against their embeddings."""
CHECKED = 4
FIT_BATCH = 32
"""Images at a time where a codec is fitted; not the batch that is found by trying, so that its bytes are the same."""
NO_CAPTION = "a photo"


class TokenParams(ParamsSection):
    """`embed.tokens`: of which splits the tokens are kept, on which grid, and in how many bytes."""

    splits: tuple[str, ...] = Field(min_length=1)
    grid: int | None = Field(default=None, ge=1)
    """Places a side; null: the tower's own. A convolutional tower is dilated for a finer one."""
    format: TokenFormat = "float16"
    rank: int | None = Field(default=None, ge=1)
    """Dimensions of a basis shared by patches and words, fitted on the split's first images; null: none."""
    parts: int = Field(default=16, ge=1)
    """Bytes of a token under `pq`."""

    @model_validator(mode="after")
    def _whole_bytes(self) -> TokenParams:
        if self.format == "int4" and self.rank is not None and self.rank % 2:
            raise ValueError("int4 packs two dimensions to a byte: expected an even rank")
        return self

    @property
    def fitted(self) -> bool:
        """Return whether the codec has to be fitted."""
        return self.rank is not None or self.format == "pq"


@dataclass(frozen=True)
class TokenEncoder:
    """A teacher's tokens in a codec's form."""

    reader: TokenReader
    codec: TokenCodec

    def facts(self) -> dict[str, Any]:
        """Return what decides a token's bytes beside the teacher and what it is shown."""
        fitted = {"basis": self.codec.basis, "centroids": self.codec.centroids}
        digests = {name: sha256_bytes(array.tobytes()) for name, array in fitted.items() if array is not None}
        return {"grid": self.reader.grid, "format": self.codec.format, **digests}

    def patches(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> tuple[Float[torch.Tensor, "b d"] | None, EncodedTokens]:
        """Return the coded tokens of every place, image after image, and the embeddings where they came with them.

        Raises:
            PipelineError: the teacher answers with NaN or infinity.
        """
        embedding, tokens = self.reader.embed_images_and_patches(pixels)
        return embedding, self._coded(tokens.reshape(-1, self.reader.teacher.identity.dim))

    def patch_shard(self, keys: tuple[str, ...], coded: Sequence[EncodedTokens]) -> PatchShard:
        """Return the shard of some images, from the codes of their batches."""
        places = self.reader.grid**2
        whole = _joined(coded)
        codes = whole.codes.reshape(len(keys), places, -1)
        scale = None if whole.scale is None else whole.scale.reshape(len(keys), places)
        return PatchShard(keys, codes, scale=scale, **codec_fields(self.codec, whole))

    def check_lengths(self, captions: Sequence[str]) -> None:
        """Refuse captions of which the teacher would read the beginning only: a foil may differ in the rest.

        Raises:
            UsageError: the first of them, and how long it may be.
        """
        if cut := self.reader.teacher.find_cut(captions):
            identity, found = self.reader.teacher.identity, cut[0]
            raise UsageError(
                f"embed.tokens: {found[:80]!r}{'…' if len(found) > 80 else ''} has more than the "
                f"{identity.context_length} tokens that {identity.model} reads: shorten it in the choice set"
            )

    def word_shard(self, keys: tuple[str, ...], captions: Sequence[str], batch: int) -> WordShard:
        """Return the shard of some captions; equal ones are embedded once.

        Raises:
            PipelineError: the teacher answers with NaN or infinity.
        """
        unique = sorted(set(captions))
        ids = self.reader.teacher.tokenize(unique)
        numbers = words_of_tokens(self.reader.teacher, unique, ids)
        tokens: dict[str, np.ndarray] = {}
        order = np.argsort(ids.argmax(axis=1), kind="stable")
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            flat, lengths = self.reader.embed_words(ids[rows])
            pieces = np.split(flat, np.cumsum(lengths)[:-1])
            tokens |= {unique[row]: piece for row, piece in zip(rows, pieces, strict=True)}
        word = dict(zip(unique, numbers, strict=True))
        dim = self.reader.teacher.identity.dim
        coded = self._coded(np.concatenate([np.zeros((0, dim), np.float32), *(tokens[c] for c in captions)]))
        return WordShard(
            keys,
            coded.codes,
            offsets=np.cumsum([0, *(len(tokens[caption]) for caption in captions)], dtype=np.int64),
            word=np.concatenate([np.zeros(0, np.int16), *(word[caption] for caption in captions)]),
            caption_sha=np.array([sha256(caption.encode()).hexdigest() for caption in captions], "S64"),
            scale=coded.scale,
            **codec_fields(self.codec, coded),
        )

    def _coded(self, tokens: Float[np.ndarray, "n d"]) -> EncodedTokens:
        if not np.isfinite(tokens).all():
            raise PipelineError(
                f"the teacher {self.reader.teacher.identity.model} answered with NaN or infinity for a token. Nothing "
                "of this shard was written. Try embed.teacher.precision: fp32, and check its weights."
            )
        return encode_tokens(self.codec, tokens)


@dataclass(frozen=True)
class FirstTokens:
    """Tokens of a split's first images and captions, for fitting a codec."""

    patches: Float[np.ndarray, "n d"]
    words: Float[np.ndarray, "m d"]


def check_first(reader: TokenReader, packed: PackedSplit, views: ViewParams) -> None:
    """Hold the tokens of a split's first images and captions against their embeddings.

    Raises:
        UsageError: they do not add up.
        PipelineError: an image cannot be decoded.
    """
    pixels, captions = _first(reader, packed, views, CHECKED)
    if pixels:
        reader.check_identity(np.stack(pixels), reader.teacher.tokenize(captions[:CHECKED]))


def first_tokens(reader: TokenReader, packed: PackedSplit, views: ViewParams) -> FirstTokens:
    """Return the tokens of a split's first images and captions; raises PipelineError where one cannot be decoded."""
    pixels, captions = _first(reader, packed, views, FIRST_IMAGES)
    batches = [np.stack(pixels[start : start + FIT_BATCH]) for start in range(0, len(pixels), FIT_BATCH)]
    dim = reader.teacher.identity.dim
    patches = np.concatenate([reader.embed_patches(part).reshape(-1, dim) for part in batches])
    return FirstTokens(patches, reader.embed_words(reader.teacher.tokenize(captions))[0])


def _first(
    reader: TokenReader, packed: PackedSplit, views: ViewParams, count: int
) -> tuple[list[UInt8[np.ndarray, "s s 3"]], list[str]]:
    samples = list(islice(packed.read(0, "size"), count)) if packed.shards else []
    pixels = [preprocess(sample, [0], views, reader.teacher.identity).pixels[0] for sample in samples]
    return pixels, [caption for sample in samples for caption in sample.captions] or [NO_CAPTION]


def _joined(coded: Sequence[EncodedTokens]) -> EncodedTokens:
    return EncodedTokens(
        np.concatenate([one.codes for one in coded]),
        None if coded[0].scale is None else np.concatenate([one.scale for one in coded if one.scale is not None]),
        max(one.residual for one in coded),
        max(one.rounding for one in coded),
    )
