"""The synthetic sample: rendered scenes with captions, and a zero-shot set in another style.

Each image is a function of (part, number, seed): nothing is stored or downloaded, and no image depends on others. Parts
`train` and `val` have the same distribution (Zipf in every attribute); `badges` is balanced over ten classes and has a
style that no training part has. A part named after a medium is balanced over the same classes: scenes of one object,
with the distribution of `train` in all attributes except kind, number and medium.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from pipeline.data.synthetic.badges import paint_badge
from pipeline.data.synthetic.captions import caption_scene
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import render_scene, sample_scene, sample_single
from pipeline.project.errors import UsageError, did_you_mean

BADGES = ("boat", "butterfly", "car", "cat", "fish", "guitar", "mug", "mushroom", "rocket", "umbrella")
"""Classes of the zero-shot set."""

DOMAINS: Mapping[str, int] = {"print": 11, "painting": 12, "cartoon": 13, "collage": 14, "sketch": 15}
"""Parts with one object of a badge class each, in one medium (domains of a labelled set), and their streams."""

STREAMS: Mapping[str, int] = {"train": 1, "val": 2, "badges": 3, **DOMAINS}
"""Random stream of each part; other programs that render scenes use other numbers."""

PARTS = tuple(STREAMS)


@dataclass(frozen=True)
class RenderedScene:
    """A picture, its five captions, and its class if its part has classes."""

    image: UInt8[np.ndarray, "64 64 3"]
    captions: tuple[str, ...]
    label: int | None


def render_image(part: str, number: int, seed: int = 0) -> RenderedScene:
    """Return image `number` of a part.

    Badges and the parts named after a medium have a label, `number` modulo ten, and no captions; the others have five
    captions and no label.

    Raises:
        UsageError: no such part.
    """
    if part not in STREAMS:
        raise UsageError(f"sample: no part '{part}'{did_you_mean(part, PARTS)}; known: {', '.join(PARTS)}")
    dice = SceneRng(STREAMS[part], number, seed)
    if part == "badges":
        label = number % len(BADGES)
        return RenderedScene(paint_badge(BADGES[label], dice), (), label)
    if part in DOMAINS:
        label = number % len(BADGES)
        return RenderedScene(render_scene(sample_single(BADGES[label], part, dice), dice), (), label)
    return draw_scene(dice)


def draw_scene(dice: SceneRng) -> RenderedScene:
    """Return a random scene with the distribution of `train` and `val`."""
    scene = sample_scene(dice)
    captions = caption_scene(scene, dice)
    return RenderedScene(render_scene(scene, dice), captions, None)
