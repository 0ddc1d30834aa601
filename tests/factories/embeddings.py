"""Embeddings made from arrays and written as a published split: what later stages are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache.manifest import Manifest, write_manifest
from cache.shard import ImageShard, PromptShard, Shard, TextShard
from tests.factories.stores import TEACHER, write_part


def clip_like(n: int, d: int = 16, captions: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images (n, d) and texts (n·captions, d) as CLIP has them: correlated axis by axis, each in its own cone.

    Spectra fall as k^−1.15 (images) and k^−1.49 (texts) along axes that differ in part between the two;
    same-axis correlation falls from 0.8 to 0.2; means hold half of the length. (Shapes from real CLIP.)
    """
    rng = np.random.default_rng(seed)
    common = np.linalg.qr(np.random.default_rng(7).normal(size=(d, d)))[0]
    rank = np.arange(1, d + 1)
    rho = np.linspace(0.8, 0.2, d)
    left = rng.normal(size=(n, d))
    right = rho * np.repeat(left, captions, axis=0) + np.sqrt(1 - rho**2) * rng.normal(size=(n * captions, d))
    mean = np.random.default_rng(8).normal(size=(2, d))
    image = left * rank**-0.575 @ common.T + mean[0]
    text = right * rank**-0.745 @ common.T + mean[1]
    return image.astype(np.float32), text.astype(np.float32)


def write_split(
    folder: Path,
    views: Sequence[np.ndarray],
    text: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    *,
    shard_rows: int = 50,
    label: np.ndarray | None = None,
    prompts: PromptShard | None = None,
    keys: Sequence[str] | None = None,
) -> Path:
    """Write a published folder of embeddings; image i has `counts[i]` captions, one each if none are given."""
    n = len(views[0])
    keys = keys or [f"{i:08d}" for i in range(n)]
    cuts = [slice(start, min(start + shard_rows, n)) for start in range(0, n, shard_rows)]
    parts: dict[str, list[Shard]] = {
        f"image/view-{v:02d}": [_image(keys, view, label, at) for at in cuts] for v, view in enumerate(views)
    }
    if text is not None:
        offsets = np.concatenate([[0], np.cumsum(np.ones(n, int) if counts is None else counts)])
        parts["text"] = [_text(keys, text, offsets, at) for at in cuts]
    if prompts is not None:
        parts["prompts"] = [prompts]
    made = {name: write_part(folder, name, shards, {"part": name}) for name, shards in parts.items()}
    write_manifest(folder, Manifest(folder.name, TEACHER, {"rows": n}, {"numpy": "2"}, 256, made))
    return folder


def _image(keys: Sequence[str], view: np.ndarray, label: np.ndarray | None, at: slice) -> ImageShard:
    own = view[at].astype(np.float32)
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (len(own), 1))
    labels = None if label is None else label[at].astype(np.int64)
    return ImageShard(tuple(keys[at]), own, box, np.zeros(len(own), bool), labels)


def _text(keys: Sequence[str], text: np.ndarray, offsets: np.ndarray, at: slice) -> TextShard:
    own = offsets[at.start : at.stop + 1]
    rows = text[own[0] : own[-1]].astype(np.float32)
    tokens = np.zeros((len(rows), 4), np.int32)
    shas = np.array([f"{row:064d}" for row in range(own[0], own[-1])], "S64")  # every caption has words of its own
    return TextShard(tuple(keys[at]), rows, (own - own[0]).astype(np.int64), tokens, shas)
