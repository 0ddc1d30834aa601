"""A project of made embeddings in which an audit has something to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.shard import PromptShard
from pipeline.project.layout import Layout
from tests.factories.embeddings import clip_like, write_split

D = 16


def embedded(root: Path, n: int = 800, captions: int = 2) -> Layout:
    """Write train, val and a zero-shot set of four classes that differ along the strongest axes."""
    layout = Layout(root)
    for split, rows, seed in (("train", n, 0), ("val", 120, 1)):
        image, text = clip_like(rows, D, captions, seed)
        write_split(layout.embeddings(split), [image], text, np.full(rows, captions))
    image, text = clip_like(200, D, 1, seed=2)
    labels = np.argmax(text @ text[:4].T - 0.5 * np.sum(text[:4] ** 2, axis=1), axis=1)
    prompts = PromptShard(np.repeat(text[:4], 2, axis=0), tuple("abcd"), ("a {c}", "the {c}"))
    write_split(layout.embeddings("badges"), [image], label=labels, prompts=prompts)
    return layout
