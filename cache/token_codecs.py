"""Compressed tokens: half precision, one scale per token, a shared basis, or product quantization.

Every codec has an error bound. Let p be a patch token and t a word token of norm at most one, U an orthonormal basis, r
= ‖(I − UUᵀ)·‖ the norm of the residual outside the basis, and e the norm of the rounding error within. Then

    |p·t − p′·t′| ≤ r_p r_t + e_p + e_t + e_p e_t

because the residuals are orthogonal to the basis. Tokens are not normalized again after projection, which would double
the error and invalidate the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

TokenFormat = Literal["float32", "float16", "int8", "int4", "pq"]
FORMATS: tuple[str, ...] = get_args(TokenFormat)
LEVELS = {"int8": 127, "int4": 7}
"""Largest code of a symmetric quantizer; codes are from −levels to +levels."""
CENTROIDS = 256
"""Number of centroids per part in product quantization: one byte."""


@dataclass(frozen=True)
class TokenCodec:
    """Encoding of tokens. `basis` and `centroids` are fitted, and stored in every shard."""

    format: TokenFormat = "float16"
    basis: np.ndarray | None = None
    """(d, k) float32, orthonormal columns."""
    centroids: np.ndarray | None = None
    """(parts, 256, k/parts) float32, under `pq`."""


@dataclass(frozen=True)
class EncodedTokens:
    """Encoded tokens, and their error bounds."""

    codes: np.ndarray
    """(n, k) float32, float16 or int8; (n, k/2) uint8 under int4; (n, parts) uint8 under pq."""
    scale: np.ndarray | None
    """(n,) float32 for int8 and int4: the quantization step of each token."""
    residual: float
    """Largest norm of the residual outside the basis."""
    rounding: float
    """Largest norm of the rounding error within the basis."""


def encode_tokens(codec: TokenCodec, tokens: np.ndarray) -> EncodedTokens:
    """Encode tokens, (n, d) float32, and measure the largest errors by decoding them again.

    Raises:
        ValueError: int4 with an odd number of dimensions, or centroids that do not fit the tokens.
    """
    inner = tokens if codec.basis is None else tokens @ codec.basis
    codes, scale = _quantize(codec, inner.astype(np.float32, copy=False))
    outside = 0.0 if codec.basis is None else _longest(tokens - inner @ codec.basis.T)
    return EncodedTokens(codes, scale, outside, _longest(_dequantize(codec, codes, scale) - inner))


def decode_tokens(codec: TokenCodec, codes: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Return (n, d) float32 tokens from their codes."""
    inner = _dequantize(codec, codes, scale)
    return inner if codec.basis is None else np.asarray(inner @ codec.basis.T)


def map_error_bound(patches: EncodedTokens, words: EncodedTokens) -> float:
    """Return the largest possible error of an entry p·t of the map, for tokens of at most unit norm."""
    rounding = patches.rounding + words.rounding + patches.rounding * words.rounding
    return patches.residual * words.residual + rounding


def token_bytes(codec: TokenCodec, dim: int) -> float:
    """Return the bytes of one token of `dim` dimensions, including its scale."""
    inner = dim if codec.basis is None else codec.basis.shape[1]
    if codec.format == "pq":
        return 0 if codec.centroids is None else len(codec.centroids)
    return {"float32": 4 * inner, "float16": 2 * inner, "int8": inner + 4, "int4": inner / 2 + 4}[codec.format]


def _quantize(codec: TokenCodec, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    if codec.format == "pq":
        return _nearest_centroids(_centroids(codec, inner.shape[1]), inner), None
    if codec.format in ("float16", "float32"):
        return inner.astype(codec.format), None
    levels = LEVELS[codec.format]
    scale = np.abs(inner).max(axis=1) / levels
    safe = np.where(scale > 0, scale, 1).astype(np.float32)
    codes = np.clip(np.rint(inner / safe[:, None]), -levels, levels).astype(np.int8)
    return (codes if codec.format == "int8" else _pack_nibbles(codes)), safe


def _dequantize(codec: TokenCodec, codes: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    if codec.format == "pq":
        if codec.centroids is None:
            raise ValueError("pq without centroids")
        parts = [centroids[codes[:, part]] for part, centroids in enumerate(codec.centroids)]
        return np.concatenate(parts, axis=1)
    if codec.format in ("float16", "float32"):
        return codes.astype(np.float32)
    if scale is None:
        raise ValueError(f"{codec.format} without scales")
    whole: np.ndarray = _unpack_nibbles(codes) if codec.format == "int4" else codes
    return np.asarray(whole.astype(np.float32) * scale[:, None])


def _centroids(codec: TokenCodec, dim: int) -> np.ndarray:
    if codec.centroids is None or codec.centroids.shape[0] * codec.centroids.shape[2] != dim:
        shape = None if codec.centroids is None else codec.centroids.shape
        raise ValueError(f"centroids {shape} do not fit tokens of {dim} dimensions")
    return codec.centroids


def _nearest_centroids(centroids: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the nearest centroid of each part: argmin ‖c‖² − 2 x·c."""
    parts, _, width = centroids.shape
    pieces = inner.reshape(len(inner), parts, width)
    codes = np.empty((len(inner), parts), np.uint8)
    for part in range(parts):
        own = centroids[part]
        codes[:, part] = (np.square(own).sum(axis=1) - 2 * pieces[:, part] @ own.T).argmin(axis=1)
    return codes


def _pack_nibbles(codes: np.ndarray) -> np.ndarray:
    if codes.shape[1] % 2:
        raise ValueError(f"int4 packs two dimensions to a byte, and {codes.shape[1]} is odd")
    shifted = (codes + 8).astype(np.uint8)
    packed: np.ndarray = shifted[:, ::2] | shifted[:, 1::2] << 4
    return packed


def _unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    pairs = np.stack([packed & 15, packed >> 4], axis=2).astype(np.int8) - 8
    return pairs.reshape(len(packed), -1)


def _longest(rows: np.ndarray) -> float:
    return float(np.sqrt(np.square(rows.astype(np.float64)).sum(axis=1).max(initial=0)))
