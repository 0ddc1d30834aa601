"""The zero-shot set of the synthetic sample: one object on a round, square or six-sided enamel badge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from pipeline.data.synthetic.object_kinds import KINDS, drawing_of
from pipeline.data.synthetic.rendering import CANVAS, Color, Medium, Pose, downsample, paint, scale_brightness
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import make_color_scheme
from pipeline.data.synthetic.shapes import box, oval, poly

GROUNDS: tuple[tuple[Color, Color], ...] = (
    ((27, 58, 75), (240, 196, 90)),
    ((120, 30, 60), (250, 214, 190)),
    ((20, 84, 80), (245, 238, 210)),
    ((64, 40, 96), (248, 160, 120)),
    ((232, 92, 70), (252, 240, 214)),
    ((36, 44, 90), (140, 220, 210)),
    ((250, 190, 60), (70, 40, 50)),
    ((200, 224, 180), (40, 80, 60)),
    ((244, 180, 190), (90, 24, 70)),
    ((222, 226, 232), (30, 60, 120)),
)
"""Colors of a badge, and of its background."""

FRAMES: Mapping[str, Float[np.ndarray, "n 2"]] = {
    "round": oval(0, 0, 1, 1),
    "square": box(-0.92, -0.92, 0.92, 0.92, 0.3),
    "six-sided": poly(*((np.sin(a) * 1.05, np.cos(a) * 1.05) for a in np.radians(np.arange(0, 360, 60)))),
}


def paint_badge(kind: str, dice: SceneRng) -> UInt8[np.ndarray, "64 64 3"]:
    """Return an enamel badge with one object of a kind, edged in white."""
    ground, other = dice.choice(GROUNDS)
    image = Image.new("RGB", (CANVAS, CANVAS), scale_brightness(ground, 0.6) if dice.bernoulli(0.6) else other)
    frame, half = FRAMES[dice.choice(tuple(FRAMES))], dice.uniform(116, 124)
    ImageDraw.Draw(image).polygon((frame * half + CANVAS / 2).ravel().tolist(), fill=ground)
    center = CANVAS / 2 + dice.uniform(-5, 5), CANVAS / 2 + dice.uniform(-5, 5)
    pose = Pose(
        *center,
        dice.uniform(78, 94),
        dice.uniform(-12, 12),
        dice.bernoulli(0.5),
        dice.uniform(0.9, 1.1),
        dice.uniform(0, 6),
    )
    coat = make_color_scheme(dice.choice(KINDS[kind].colors), "plain", dice)
    paint(image, drawing_of(kind), pose, coat, Medium(outline="white", line=8.0, wobble=0.0))
    return downsample(image)
