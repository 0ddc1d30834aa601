"""The zero-shot set of the drawn world: one thing on a round, square or six-sided enamel badge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from pipeline.data.sample_curves import box, oval, poly
from pipeline.data.sample_dice import Dice
from pipeline.data.sample_kinds import KINDS, drawing_of
from pipeline.data.sample_paint import CANVAS, Colour, Medium, Pose, finished, paint, tinted
from pipeline.data.sample_scenes import coat_of

GROUNDS: tuple[tuple[Colour, Colour], ...] = (
    ((27, 58, 75), (240, 196, 90)), ((120, 30, 60), (250, 214, 190)), ((20, 84, 80), (245, 238, 210)),
    ((64, 40, 96), (248, 160, 120)), ((232, 92, 70), (252, 240, 214)), ((36, 44, 90), (140, 220, 210)),
    ((250, 190, 60), (70, 40, 50)), ((200, 224, 180), (40, 80, 60)), ((244, 180, 190), (90, 24, 70)),
    ((222, 226, 232), (30, 60, 120)),
)
"""The colour of a badge, and of what it is pinned to."""

FRAMES: Mapping[str, Float[np.ndarray, "n 2"]] = {
    "round": oval(0, 0, 1, 1),
    "square": box(-0.92, -0.92, 0.92, 0.92, 0.3),
    "six-sided": poly(*((np.sin(a) * 1.05, np.cos(a) * 1.05) for a in np.radians(np.arange(0, 360, 60)))),
}


def paint_badge(kind: str, dice: Dice) -> UInt8[np.ndarray, "64 64 3"]:
    """Return an enamel badge with one thing of a kind on it, edged in white."""
    ground, other = dice.pick(GROUNDS)
    image = Image.new("RGB", (CANVAS, CANVAS), tinted(ground, 0.6) if dice.chance(0.6) else other)
    frame, half = FRAMES[dice.pick(tuple(FRAMES))], dice.real(116, 124)
    ImageDraw.Draw(image).polygon((frame * half + CANVAS / 2).ravel().tolist(), fill=ground)
    centre = CANVAS / 2 + dice.real(-5, 5), CANVAS / 2 + dice.real(-5, 5)
    pose = Pose(*centre, dice.real(78, 94), dice.real(-12, 12), dice.chance(0.5), dice.real(0.9, 1.1), dice.real(0, 6))
    coat = coat_of(dice.pick(KINDS[kind].colours), "plain", dice)
    paint(image, drawing_of(kind), pose, coat, Medium(outline="white", line=8.0, wobble=0.0))
    return finished(image)
