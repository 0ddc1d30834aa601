"""What the teacher of the embedded sample learns from: the drawn world, and posters of its kinds in any colours.

Four in ten follow the law of the world, from a stream of chance of their own; the others are posters: one thing in any
colours, so that shapes are learnt and not the palette of one style. There is no badge among them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data.synthetic.captions import ANY_MEDIUM, with_article
from pipeline.data.synthetic.object_kinds import KINDS, drawing_of
from pipeline.data.synthetic.rendering import (
    CANVAS,
    Color,
    ColorScheme,
    Pose,
    downsample,
    paint,
    scale_brightness,
    two_tone,
)
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import MEDIA
from pipeline.data.synthetic.world import RenderedScene, draw_scene

SCENES, POSTERS, HELD_OUT = 101, 102, 103
"""Streams of chance, none of them a part of the sample."""
AGAIN = 8000
"""Of this many images drawn last, some are seen again: drawing costs as much as learning."""


def poster(dice: SceneRng, kind: str) -> RenderedScene:
    """Return one thing of a kind, in any two colours that can be told apart, on a ground with little else on it."""
    ground, body = _far_apart(dice)
    coat = (
        two_tone(ground, body)
        if dice.bernoulli(0.7)
        else ColorScheme(body, scale_brightness(body, dice.choice((0.6, 1.5))))
    )
    image = Image.new("RGB", (CANVAS, CANVAS), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(int(dice.uniform(0, 4))):
        x, y, wide, high = (
            dice.uniform(0, CANVAS),
            dice.uniform(0, CANVAS),
            dice.uniform(10, 130),
            dice.uniform(10, 130),
        )
        if dice.bernoulli(0.5):  # in the middle and large, as something to stand before
            x, y, wide, high = CANVAS / 2, CANVAS / 2, dice.uniform(70, 150), dice.uniform(70, 150)
        corners = (x - wide, y - high, x + wide, y + high)
        (pen.ellipse if dice.bernoulli(0.5) else pen.rectangle)(
            corners, fill=scale_brightness(ground, dice.uniform(0.6, 1.45))
        )
    half = dice.uniform(66, 112)
    x, y = (CANVAS / 2 + dice.uniform(-1, 1) * max(6.0, CANVAS / 2 - half) for _ in range(2))
    pose = Pose(x, y, half, dice.uniform(-18, 18), dice.bernoulli(0.5), dice.uniform(0.88, 1.14), dice.uniform(0, 6))
    paint(image, drawing_of(kind), pose, coat, MEDIA[dice.zipf(tuple(MEDIA), 1.5)])
    opening = dice.choice(("a photo of", "a photo of", *ANY_MEDIUM[:3], ""))
    return RenderedScene(downsample(image), (f"{opening} {with_article(kind)}".strip() + dice.choice((".", "")),), None)


def examples(seed: int, posters: float = 0.6) -> Iterator[tuple[np.ndarray, str]]:
    """Yield images with one of their captions, without end; half of them once more with another caption."""
    choice = np.random.default_rng(seed)
    drawn: list[Any] = []
    for number in itertools.count():
        if number >= AGAIN and number % 2:
            scene = drawn[int(choice.integers(len(drawn)))]
        elif choice.random() < posters:
            scene = poster(SceneRng(POSTERS, number, seed), tuple(KINDS)[int(choice.integers(len(KINDS)))])
        else:
            scene = draw_scene(SceneRng(SCENES, number, seed))
        drawn.append(scene) if len(drawn) < AGAIN else drawn.__setitem__(number % AGAIN, scene)
        yield _augmented(scene.image, choice), scene.captions[int(choice.integers(len(scene.captions)))]


def _augmented(image: np.ndarray, choice: np.random.Generator) -> np.ndarray:
    if choice.random() < 0.5:
        image = image[:, ::-1]
    gain, shift = choice.uniform(0.85, 1.15), choice.uniform(-20, 20)
    return np.clip(image * gain + shift, 0, 255).astype(np.uint8)


def _color(dice: SceneRng) -> Color:
    return int(dice.uniform(0, 256)), int(dice.uniform(0, 256)), int(dice.uniform(0, 256))


def _far_apart(dice: SceneRng) -> tuple[Color, Color]:
    """Return two colours that can be told apart."""
    while True:
        one, other = _color(dice), _color(dice)
        if abs(sum(one) - sum(other)) > 240:
            return one, other
