"""Fit the compression of tokens: one basis for patches and words, and centroids of product quantization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from cache.token_codecs import CENTROIDS, TokenCodec, TokenFormat
from pipeline.project.errors import UsageError

KMEANS_SEED = 1234
LEAST_TOKENS = 39 * CENTROIDS
"""faiss recommends at least 39 points per centroid."""


def fit_basis(
    patches: Float[np.ndarray, "n d"], words: Float[np.ndarray, "m d"], rank: int
) -> Float[np.ndarray, "d k"]:
    """Return the leading directions of both modalities together.

    The leading eigenvectors of  PᵀP / tr(PᵀP) + TᵀT / tr(TᵀT),  uncentered second moments (a map is p·t, not a
    covariance), each of trace one so that the modality with more tokens does not dominate. The largest entry of each
    column is made positive, so that equal tokens give equal bytes.

    Raises:
        UsageError: the rank is not below the dimension of the tokens.
    """
    dim = patches.shape[1]
    if not 0 < rank < dim:
        raise UsageError(
            f"params: 'embed.tokens.rank': {rank}, but tokens have {dim} dimensions: expected 1 to {dim - 1}"
        )
    moments = [tokens.astype(np.float64).T @ tokens.astype(np.float64) for tokens in (patches, words)]
    _, vectors = np.linalg.eigh(sum(moment / np.trace(moment) for moment in moments))
    basis = vectors[:, ::-1][:, :rank]
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(rank)])
    return np.ascontiguousarray(basis * signs, np.float32)


def fit_centroids(tokens: Float[np.ndarray, "n k"], parts: int) -> Float[np.ndarray, "parts 256 w"]:
    """Return the centroids of product quantization (Jégou, Douze & Schmid, 2011), fitted by faiss.

    Raises:
        UsageError: the number of parts does not divide the dimension, or there are too few tokens for 256 centroids.
    """
    import faiss

    count, dim = tokens.shape
    if dim % parts:
        raise UsageError(f"params: 'embed.tokens.parts': {parts} does not divide the {dim} dimensions of a token")
    if count < LEAST_TOKENS:
        raise UsageError(
            f"params: 'embed.tokens.format': pq needs {LEAST_TOKENS} tokens in the first shard to fit {CENTROIDS} "
            f"centroids, and there are {count}. Use int4, or larger shards (pack.shard_rows)."
        )
    quantizer = faiss.ProductQuantizer(dim, parts, 8)
    quantizer.cp.seed = KMEANS_SEED
    quantizer.train(np.ascontiguousarray(tokens, np.float32))
    centroids: Float[np.ndarray, "parts 256 w"] = faiss.vector_to_array(quantizer.centroids)
    return centroids.reshape(parts, CENTROIDS, dim // parts)


def fit_codec(
    form: TokenFormat,
    rank: int | None,
    parts: int,
    patches: Float[np.ndarray, "n d"],
    words: Float[np.ndarray, "m d"],
) -> TokenCodec:
    """Return a codec fitted to some patches and words.

    Raises:
        UsageError: rank or parts that do not fit the tokens, or too few tokens.
    """
    codec = TokenCodec(form, None if rank is None else fit_basis(patches, words, rank))
    if form != "pq":
        return codec
    both = np.concatenate([patches, words])
    return replace(codec, centroids=fit_centroids(both if codec.basis is None else both @ codec.basis, parts))
