"""Make shards of tokens from pixels and captions, and fit their codec."""

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
"""Number of first images to which a codec is fitted, and whose tokens are compared with their embeddings."""
CHECKED = 4
FIT_BATCH = 32
"""Batch size for fitting a codec; fixed, not measured, so that the bytes are reproducible."""
NO_CAPTION = "a photo"


class TokenParams(ParamsSection):
    """`embed.tokens`: splits with tokens, grid, and encoding."""

    splits: tuple[str, ...] = Field(min_length=1)
    grid: int | None = Field(default=None, ge=1)
    """Positions per side; null: the tower's own. A convolutional tower is dilated for a finer grid."""
    format: TokenFormat = "float16"
    rank: int | None = Field(default=None, ge=1)
    """Dimension of a basis shared by patches and words, fitted to the split's first images; null: no basis."""
    parts: int = Field(default=16, ge=1)
    """Bytes per token with `pq`."""

    @model_validator(mode="after")
    def _whole_bytes(self) -> TokenParams:
        if self.format == "int4" and self.rank is not None and self.rank % 2:
            raise ValueError("int4 packs two dimensions to a byte: expected an even rank")
        return self

    @property
    def fitted(self) -> bool:
        """Return whether the codec needs fitting."""
        return self.rank is not None or self.format == "pq"


@dataclass(frozen=True)
class TokenEncoder:
    """Computes and encodes a teacher's tokens."""

    reader: TokenReader
    codec: TokenCodec

    def facts(self) -> dict[str, Any]:
        """Return the facts that decide a token's bytes, besides the teacher and its input."""
        fitted = {"basis": self.codec.basis, "centroids": self.codec.centroids}
        digests = {name: sha256_bytes(array.tobytes()) for name, array in fitted.items() if array is not None}
        return {"grid": self.reader.grid, "format": self.codec.format, **digests}

    def patches(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> tuple[Float[torch.Tensor, "b d"] | None, EncodedTokens]:
        """Return the encoded patch tokens of images, and the embeddings if the same pass gives them.

        Raises:
            PipelineError: the teacher's output has NaN or infinity.
        """
        embedding, tokens = self.reader.embed_images_and_patches(pixels)
        return embedding, self._coded(tokens.reshape(-1, self.reader.teacher.identity.dim))

    def patch_shard(self, keys: tuple[str, ...], coded: Sequence[EncodedTokens]) -> PatchShard:
        """Return the shard of some images from their encoded batches."""
        places = self.reader.grid**2
        whole = _joined(coded)
        codes = whole.codes.reshape(len(keys), places, -1)
        scale = None if whole.scale is None else whole.scale.reshape(len(keys), places)
        return PatchShard(keys, codes, scale=scale, **codec_fields(self.codec, whole))

    def check_lengths(self, captions: Sequence[str]) -> None:
        """Refuse captions that the tokenizer would truncate, because a foil may differ in the rest.

        Raises:
            UsageError: names the first of them and the maximum length.
        """
        if cut := self.reader.teacher.find_cut(captions):
            identity, text = self.reader.teacher.identity, cut[0]
            raise UsageError(
                f"embed.tokens: {text[:80]!r}{'…' if len(text) > 80 else ''} has more than the "
                f"{identity.context_length} tokens that {identity.model} reads: shorten it in the choice set"
            )

    def word_shard(self, keys: tuple[str, ...], captions: Sequence[str], batch: int) -> WordShard:
        """Return the shard of some captions; equal captions are embedded once.

        Raises:
            PipelineError: the teacher's output has NaN or infinity.
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
    """Tokens of a split's first images and captions, to fit a codec."""

    patches: Float[np.ndarray, "n d"]
    words: Float[np.ndarray, "m d"]


def check_first(reader: TokenReader, packed: PackedSplit, views: ViewParams) -> None:
    """Compare the tokens of a split's first images and captions with their embeddings.

    Raises:
        UsageError: they are inconsistent.
        PipelineError: an image cannot be decoded.
    """
    pixels, captions = _first(reader, packed, views, CHECKED)
    if pixels:
        reader.check_identity(np.stack(pixels), reader.teacher.tokenize(captions[:CHECKED]))


def first_tokens(reader: TokenReader, packed: PackedSplit, views: ViewParams) -> FirstTokens:
    """Return the tokens of a split's first images and captions; raises PipelineError if one cannot be decoded."""
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
