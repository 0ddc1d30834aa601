"""Tokens in fewer bytes: what a codec gives back, and a bound that no entry of a map ever breaks."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.token_codecs import TokenCodec, decode_tokens, encode_tokens, map_error_bound, token_bytes
from pipeline.project.errors import UsageError
from pipeline.relations.compression import fit_basis, fit_centroids, fit_codec


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, dim)) * np.linspace(3, 0.1, dim)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    form=st.sampled_from(["float32", "float16", "int8", "int4"]),
    rank=st.sampled_from([None, 2, 6, 10]),
    seed=st.integers(0, 10_000),
)
def test_no_entry_of_a_map_is_further_off_than_the_bound(form: str, rank: int | None, seed: int) -> None:
    patches, words = unit_rows(40, 12, seed), unit_rows(15, 12, seed + 1)
    codec = fit_codec(form, rank, 4, patches, words)  # type: ignore[arg-type]
    coded = [encode_tokens(codec, tokens) for tokens in (patches, words)]
    near = [decode_tokens(codec, one.codes, one.scale) for one in coded]
    error = np.abs(patches @ words.T - near[0] @ near[1].T).max()
    assert error <= map_error_bound(*coded) + 1e-6
    # Negative control: a bound of half the size is broken where a basis leaves something out.
    if rank == 2 and form == "float32":
        assert error > map_error_bound(*coded) / 20


def test_product_quantization_obeys_the_same_bound_and_is_what_faiss_encodes() -> None:
    import faiss

    tokens = unit_rows(10_400, 8, 5)
    centroids = fit_centroids(tokens, 4)
    codec = TokenCodec("pq", None, centroids)
    coded = encode_tokens(codec, tokens[:500])
    quantizer = faiss.ProductQuantizer(8, 4, 8)
    faiss.copy_array_to_vector(centroids.ravel(), quantizer.centroids)
    theirs = cast(Any, quantizer).decode(quantizer.compute_codes(tokens[:500]))
    near = decode_tokens(codec, coded.codes)
    np.testing.assert_allclose(
        np.linalg.norm(near - tokens[:500], axis=1), np.linalg.norm(theirs - tokens[:500], axis=1), atol=1e-5
    )
    error = np.abs(tokens[:500] @ tokens[:500].T - near @ near.T).max()
    assert 0 < error <= map_error_bound(coded, coded)


def test_no_other_basis_leaves_less_of_both_modalities_outside() -> None:
    """Eckart and Young: the leading eigenvectors keep the most of the summed second moments."""
    patches, words = unit_rows(400, 16, 1), unit_rows(300, 16, 2)[:, ::-1].copy()

    def outside(basis: np.ndarray) -> float:
        return sum(float(np.square(t - t @ basis @ basis.T).sum() / np.square(t).sum()) for t in (patches, words))

    best = fit_basis(patches, words, 6)
    np.testing.assert_allclose(best.T @ best, np.eye(6), atol=1e-6)
    others = [fit_basis(patches, patches, 6), fit_basis(words, words, 6)]
    others += [np.linalg.qr(np.random.default_rng(i).normal(size=(16, 6)))[0] for i in range(20)]
    assert all(outside(best) < outside(other) for other in others)


def test_int4_codes_come_back_as_they_were() -> None:
    tokens = np.array([[-7, 7, 3, 0, 1, -1]], np.float32)
    coded = encode_tokens(TokenCodec("int4"), tokens)
    assert coded.codes.shape == (1, 3)
    np.testing.assert_array_equal(decode_tokens(TokenCodec("int4"), coded.codes, coded.scale), tokens)
    assert token_bytes(TokenCodec("int4"), 6) == 3 + 4


def test_a_token_of_zeros_stays_one() -> None:
    for form in ("int8", "int4", "float16"):
        codec = TokenCodec(form)
        coded = encode_tokens(codec, np.zeros((2, 4), np.float32))
        assert not decode_tokens(codec, coded.codes, coded.scale).any()


def test_too_few_tokens_and_ranks_that_do_not_fit_are_one_line() -> None:
    tokens = unit_rows(50, 8, 0)
    with pytest.raises(UsageError, match="pq needs 9984 tokens"):
        fit_centroids(tokens, 4)
    with pytest.raises(UsageError, match="does not divide the 8 dimensions"):
        fit_centroids(tokens, 3)
    with pytest.raises(UsageError, match="expected 1 to 7"):
        fit_basis(tokens, tokens, 8)


def test_equal_tokens_give_equal_bytes() -> None:
    tokens = unit_rows(300, 12, 3)
    assert fit_basis(tokens, tokens[::2], 5).tobytes() == fit_basis(tokens, tokens[::2], 5).tobytes()
