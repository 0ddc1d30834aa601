"""The zero-shot set of the drawn world: one thing on a round, square or six-sided badge, in two inks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from pipeline.data.sample_curves import box, oval, poly
from pipeline.data.sample_dice import Dice
from pipeline.data.sample_kinds import drawing_of
from pipeline.data.sample_paint import CANVAS, Colour, Medium, Pose, finished, in_two_inks, paint, tinted

INKS: tuple[tuple[Colour, Colour], ...] = (
    ((27, 58, 75), (240, 196, 90)), ((120, 30, 60), (250, 214, 190)), ((20, 84, 80), (245, 238, 210)),
    ((64, 40, 96), (248, 160, 120)), ((232, 92, 70), (252, 240, 214)), ((36, 44, 90), (140, 220, 210)),
    ((250, 190, 60), (70, 40, 50)), ((200, 224, 180), (40, 80, 60)), ((244, 180, 190), (90, 24, 70)),
    ((222, 226, 232), (30, 60, 120)),
)
"""The colour of the badge and of the thing on it."""

FRAMES: Mapping[str, Float[np.ndarray, "n 2"]] = {
    "round": oval(0, 0, 1, 1),
    "square": box(-0.92, -0.92, 0.92, 0.92, 0.3),
    "six-sided": poly(*((np.sin(a) * 1.05, np.cos(a) * 1.05) for a in np.radians(np.arange(0, 360, 60)))),
}


def paint_badge(kind: str, dice: Dice) -> UInt8[np.ndarray, "64 64 3"]:
    """Return a badge with one thing of a kind on it."""
    ground, ink = dice.pick(INKS)
    field = tinted(ink, dice.real(0.75, 1.0)) if dice.chance(0.4) else tinted(ground, dice.pick((0.6, 1.5)))
    image = Image.new("RGB", (CANVAS, CANVAS), field)
    pen = ImageDraw.Draw(image)
    frame, half = FRAMES[dice.pick(tuple(FRAMES))], dice.real(112, 122)
    for size, colour in ((half, ink), (half - 9, ground), (half - 15, ink), (half - 19, ground)):
        pen.polygon((frame * size + CANVAS / 2).ravel().tolist(), fill=colour)
    centre = CANVAS / 2 + dice.real(-5, 5), CANVAS / 2 + dice.real(-5, 5)
    pose = Pose(*centre, dice.real(66, 84), dice.real(-16, 16), dice.chance(0.5), dice.real(0.9, 1.1), dice.real(0, 6))
    paint(image, drawing_of(kind), pose, in_two_inks(ground, ink), Medium(wobble=0.015))
    return finished(image)
