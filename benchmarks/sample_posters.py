"""What the teacher of the embedded sample learns from: the drawn world, and posters of its kinds in any colours.

Four in ten follow the law of the world, from a stream of chance of their own; the others are posters: one thing in any
colours, so that shapes are learnt and not the palette of one style. There is no badge among them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.data.sample_captions import ANY_MEDIUM, with_article
from pipeline.data.sample_dice import Dice
from pipeline.data.sample_kinds import KINDS, drawing_of
from pipeline.data.sample_paint import CANVAS, Coat, Colour, Pose, finished, in_two_inks, paint, tinted
from pipeline.data.sample_scenes import MEDIA
from pipeline.data.sample_world import DrawnScene, draw_scene

SCENES, POSTERS, HELD_OUT = 101, 102, 103
"""Streams of chance, none of them a part of the sample."""
AGAIN = 8000
"""Of this many images drawn last, some are seen again: drawing costs as much as learning."""


def poster(dice: Dice, kind: str) -> DrawnScene:
    """Return one thing of a kind, in any two colours that can be told apart, on a ground with little else on it."""
    ground, body = _far_apart(dice)
    coat = in_two_inks(ground, body) if dice.chance(0.7) else Coat(body, tinted(body, dice.pick((0.6, 1.5))))
    image = Image.new("RGB", (CANVAS, CANVAS), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(int(dice.real(0, 4))):
        x, y, wide, high = dice.real(0, CANVAS), dice.real(0, CANVAS), dice.real(10, 130), dice.real(10, 130)
        if dice.chance(0.5):  # in the middle and large, as something to stand before
            x, y, wide, high = CANVAS / 2, CANVAS / 2, dice.real(70, 150), dice.real(70, 150)
        corners = (x - wide, y - high, x + wide, y + high)
        (pen.ellipse if dice.chance(0.5) else pen.rectangle)(corners, fill=tinted(ground, dice.real(0.6, 1.45)))
    half = dice.real(66, 112)
    x, y = (CANVAS / 2 + dice.real(-1, 1) * max(6.0, CANVAS / 2 - half) for _ in range(2))
    pose = Pose(x, y, half, dice.real(-18, 18), dice.chance(0.5), dice.real(0.88, 1.14), dice.real(0, 6))
    paint(image, drawing_of(kind), pose, coat, MEDIA[dice.zipf(tuple(MEDIA), 1.5)])
    opening = dice.pick(("a photo of", "a photo of", *ANY_MEDIUM[:3], ""))
    return DrawnScene(finished(image), (f"{opening} {with_article(kind)}".strip() + dice.pick((".", "")),), None)


def examples(seed: int, posters: float = 0.6) -> Iterator[tuple[np.ndarray, str]]:
    """Yield images with one of their captions, without end; half of them once more with another caption."""
    choice, drawn = np.random.default_rng(seed), []
    for number in itertools.count():
        if number >= AGAIN and number % 2:
            scene = drawn[int(choice.integers(len(drawn)))]
        elif choice.random() < posters:
            scene = poster(Dice(POSTERS, number, seed), tuple(KINDS)[int(choice.integers(len(KINDS)))])
        else:
            scene = draw_scene(Dice(SCENES, number, seed))
        drawn.append(scene) if len(drawn) < AGAIN else drawn.__setitem__(number % AGAIN, scene)
        yield _augmented(scene.image, choice), scene.captions[int(choice.integers(len(scene.captions)))]


def _augmented(image: np.ndarray, choice: np.random.Generator) -> np.ndarray:
    if choice.random() < 0.5:
        image = image[:, ::-1]
    gain, shift = choice.uniform(0.85, 1.15), choice.uniform(-20, 20)
    return np.clip(image * gain + shift, 0, 255).astype(np.uint8)


def _colour(dice: Dice) -> Colour:
    return int(dice.real(0, 256)), int(dice.real(0, 256)), int(dice.real(0, 256))


def _far_apart(dice: Dice) -> tuple[Colour, Colour]:
    """Return two colours that can be told apart."""
    while True:
        one, other = _colour(dice), _colour(dice)
        if abs(sum(one) - sum(other)) > 240:
            return one, other
