"""Bytes an image against accuracy: tokens through each codec and on coarser grids, scored by fitted scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.relation_sets import RelationSet, accuracy_by_task
from cache.token_codecs import TokenCodec, decode_tokens, encode_tokens, token_bytes
from pipeline.relations.compression import fit_codec
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import Scorer
from pipeline.relations.token_arrays import TokenArrays

CODECS: dict[str, tuple[str, int | None, int]] = {
    "float16": ("float16", None, 0),
    "int8": ("int8", None, 0),
    "int4": ("int4", None, 0),
    "rank 32 int8": ("int8", 32, 0),
    "rank 16 float16": ("float16", 16, 0),
    "rank 8 float16": ("float16", 8, 0),
    "pq 16 bytes": ("pq", None, 16),
    "pq 8 bytes": ("pq", None, 8),
    "pq 4 bytes": ("pq", None, 4),
}
GRIDS = (4, 2, 1)


def measure_frontier(
    scorers: Mapping[str, Scorer], sets: dict[str, RelationSet], params: ScorerParams
) -> dict[str, Any]:
    """Score the validation set from compressed tokens, both modalities through the same codec."""
    train, val = sets["relations-train"], sets["relations-val"]
    tokens = val.tokens
    patches = train.tokens.patches[:500].reshape(-1, train.tokens.patches.shape[2]).astype(np.float32)
    words = train.tokens.words[:4000][train.tokens.valid[:4000]].astype(np.float32)
    near = {}
    places, dim = tokens.patches.shape[1:]
    for name, (form, rank, parts) in CODECS.items():
        codec = fit_codec(form, rank, parts, patches, words)  # type: ignore[arg-type]
        coded = replace(tokens, patches=_through(codec, tokens.patches), words=_through(codec, tokens.words))
        near[name] = token_bytes(codec, dim) * places, coded
    for grid in GRIDS:
        near[f"grid {grid} float16"] = 2 * dim * grid**2, replace(tokens, patches=_pooled(tokens.patches, grid))
    found = {
        name: {
            "bytes": size,
            "map_error": _map_error(tokens, coded),
            "accuracy": accuracy_by_task(scorers, replace(val, tokens=coded), params),
        }
        for name, (size, coded) in near.items()
    }
    print(json.dumps(found), flush=True)
    return found


def _through(codec: TokenCodec, tokens: np.ndarray) -> np.ndarray:
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float32)
    coded = encode_tokens(codec, flat)
    return decode_tokens(codec, coded.codes, coded.scale).reshape(tokens.shape)


def _pooled(patches: np.ndarray, grid: int) -> np.ndarray:
    n, p, d = patches.shape
    side = int(p**0.5)
    blocks = patches.astype(np.float32).reshape(n, grid, side // grid, grid, side // grid, d).mean(axis=(2, 4))
    blocks /= np.linalg.norm(blocks, axis=-1, keepdims=True)
    return blocks.repeat(side // grid, axis=1).repeat(side // grid, axis=2).reshape(n, p, d)


def _map_error(exact: TokenArrays, near: TokenArrays, count: int = 200) -> float:
    """Return the root mean square error of maps over their deviation, of true entries only."""
    rows = np.arange(min(count, len(exact.patches), len(exact.words)))
    maps = [
        np.einsum("npd,ntd->npt", t.patches[rows].astype(np.float32), t.words[rows].astype(np.float32)).transpose(
            0, 2, 1
        )[exact.valid[rows]]
        for t in (exact, near)
    ]
    return float(np.sqrt(np.square(maps[0] - maps[1]).mean()) / maps[0].std())
