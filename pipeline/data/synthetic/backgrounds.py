"""Backgrounds of the synthetic scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipeline.data.synthetic import grounds
from pipeline.data.synthetic.grounds import Pen, Tone, bands, disc
from pipeline.data.synthetic.rendering import CANVAS, Color
from pipeline.data.synthetic.rng import SceneRng

LIGHTS: Mapping[str, tuple[Color, Color, Color]] = {
    "day": ((120, 185, 235), (215, 235, 248), (256, 256, 256)),
    "sunset": ((120, 90, 150), (252, 175, 110), (250, 215, 195)),
    "night": ((16, 20, 52), (52, 62, 110), (105, 115, 160)),
    "rain": ((110, 122, 138), (165, 175, 185), (190, 196, 205)),
    "snowfall": ((165, 178, 200), (222, 228, 238), (232, 238, 250)),
}
"""For each light: the sky at the top, the sky at the horizon, and the color of white (256 keeps a color unchanged)."""


@dataclass(frozen=True)
class Background:
    """A place: its words in captions, the height of its ground, and its painter."""

    phrases: tuple[str, ...]
    horizon: float
    outdoors: bool
    details: Callable[[Pen, SceneRng, Tone, int], None]


def paint_place(name: str, light: str, dice: SceneRng) -> Image.Image:
    """Return a canvas with a place in a light."""
    place, (above, below, white) = PLACES[name], LIGHTS[light]
    image = Image.new("RGB", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(image)
    shift = [dice.uniform(-14, 14) for _ in range(3)]

    def tone(color: Color) -> Color:
        lit = ((c + s) * w / 256 for c, s, w in zip(color, shift, white, strict=True))
        red, green, blue = (int(max(0, min(255, c))) for c in lit)
        return red, green, blue

    horizon = int((place.horizon + dice.uniform(-0.05, 0.05)) * CANVAS)
    if place.outdoors:
        bands(pen, 0, horizon, above, below)
        _sky(pen, dice, light, horizon)
    place.details(pen, dice, tone, horizon)
    return image


def paint_weather(image: Image.Image, light: str, dice: SceneRng) -> None:
    """Paint rain or snow in front of everything."""
    pen = ImageDraw.Draw(image)
    for _ in range({"rain": 26, "snowfall": 34}.get(light, 0)):
        x, y, size = dice.uniform(0, CANVAS), dice.uniform(0, CANVAS), dice.uniform(2.5, 5)
        if light == "rain":
            pen.line((x, y, x - 7, y + 24), fill=(205, 218, 232), width=3)
        else:
            pen.ellipse((x - size, y - size, x + size, y + size), fill=(255, 255, 255))


def _sky(pen: Pen, dice: SceneRng, light: str, horizon: int) -> None:
    x, y = dice.uniform(20, CANVAS - 20), dice.uniform(14, max(20, horizon * 0.5))
    if light == "night":
        for _ in range(12):
            left, top = dice.uniform(0, CANVAS), dice.uniform(0, horizon)
            pen.ellipse((left, top, left + 4, top + 4), fill=(250, 246, 220))
        disc(pen, x, y, 14, (246, 240, 205))
    elif light == "sunset":
        disc(pen, x, horizon - 4, 26, (255, 226, 140))
    elif light == "day":
        for _ in range(int(dice.uniform(0, 3.5))):
            x, y, r = dice.uniform(0, CANVAS), dice.uniform(12, max(16, horizon * 0.6)), dice.uniform(10, 18)
            for dx, dr in ((-1.2, 0.7), (0, 1.0), (1.2, 0.75)):
                disc(pen, x + dx * r, y, r * dr, (250, 252, 255))


PLACES: Mapping[str, Background] = {
    "meadow": Background(("in a meadow", "on the grass"), 0.5, True, grounds.meadow),
    "table": Background(("on a wooden table", "on a table"), 0.56, False, grounds.table),
    "beach": Background(("on the beach", "by the sea"), 0.36, True, grounds.beach),
    "street": Background(("in the street", "in a town"), 0.52, True, grounds.street),
    "room": Background(("in a room", "on a rug"), 0.52, False, grounds.room),
    "forest": Background(("in the forest", "in front of trees"), 0.5, True, grounds.forest),
    "mountains": Background(("in the mountains",), 0.55, True, grounds.mountains),
    "snow": Background(("in the snow",), 0.5, True, grounds.snow),
    "desert": Background(("in the desert", "on the sand"), 0.48, True, grounds.desert),
    "sea": Background(("under water", "deep in the sea"), 0.3, False, grounds.sea),
    "paper": Background(("on paper",), 0.2, False, grounds.paper),
}
"""Ordered by frequency."""
