"""Ground and distant objects of each place of the synthetic scenes."""

from __future__ import annotations

from collections.abc import Callable

from PIL import ImageDraw

from pipeline.data.synthetic.rendering import CANVAS, Color, scale_brightness
from pipeline.data.synthetic.rng import SceneRng

Pen = ImageDraw.ImageDraw
Tone = Callable[[Color], Color]
"""Function that applies the light to a color."""

BANDS = 32
"""A gradient is painted in bands of CANVAS / BANDS, two finished pixels each."""


def bands(pen: Pen, top: int, bottom: int, above: Color, below: Color) -> None:
    """Fill the canvas between two heights with bands from one color to another."""
    step = CANVAS // BANDS
    for y in range(top, bottom, step):
        part = (y - top) / max(1, bottom - top)
        red, green, blue = (int(a + (b - a) * part) for a, b in zip(above, below, strict=True))
        pen.rectangle((0, y, CANVAS, min(bottom, y + step)), fill=(red, green, blue))


def disc(pen: Pen, x: float, y: float, r: float, color: Color) -> None:
    """Draw a disc."""
    pen.ellipse((x - r, y - r, x + r, y + r), fill=color)


def ground(pen: Pen, horizon: int, near: Color, far: Color) -> None:
    """Fill the canvas below the horizon, from the far color to the near one."""
    bands(pen, horizon, CANVAS, far, near)


def meadow(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint grass with tufts and daisies."""
    ground(pen, horizon, tone((88, 160, 70)), tone((150, 200, 105)))
    for _ in range(14):
        x, y = dice.uniform(0, CANVAS), dice.uniform(horizon + 8, CANVAS)
        pen.line((x - 4, y - 9, x, y, x + 4, y - 9), fill=tone((60, 125, 55)), width=3)
    for _ in range(5):
        disc(pen, dice.uniform(0, CANVAS), dice.uniform(horizon + 8, CANVAS), 3.5, tone((250, 240, 200)))


def beach(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint the sea, its edge and sand."""
    shore = horizon + int(dice.uniform(30, 44))
    bands(pen, horizon, shore, tone((50, 130, 175)), tone((95, 185, 200)))
    pen.rectangle((0, shore, CANVAS, CANVAS), fill=tone((238, 215, 160)))
    pen.rectangle((0, shore, CANVAS, shore + 5), fill=tone((248, 250, 248)))
    for _ in range(16):
        disc(pen, dice.uniform(0, CANVAS), dice.uniform(shore + 12, CANVAS), 2.5, tone((205, 175, 120)))


def table(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint a wall and the planks of a table."""
    wall = tone(dice.choice(((205, 218, 214), (236, 222, 200), (214, 205, 222), (190, 206, 226), (232, 205, 196))))
    pen.rectangle((0, 0, CANVAS, horizon), fill=wall)
    pen.rectangle((0, horizon, CANVAS, CANVAS), fill=tone((186, 130, 82)))
    for i, y in enumerate(range(horizon, CANVAS, 34)):
        pen.rectangle((0, y, CANVAS, y + 4), fill=tone((150, 100, 60)))
        x = (dice.uniform(0, CANVAS) + 97 * i) % CANVAS
        pen.rectangle((x, y, x + 3, y + 34), fill=tone((150, 100, 60)))


def street(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint a row of houses and a road."""
    x = -dice.uniform(0, 30)
    while x < CANVAS:
        width, height = dice.uniform(34, 60), dice.uniform(40, horizon * 0.8)
        color = tone(dice.choice(((196, 120, 96), (214, 190, 150), (150, 160, 176), (176, 146, 160))))
        pen.rectangle((x, horizon - height, x + width - 4, horizon), fill=color)
        for top in range(int(horizon - height) + 9, horizon - 12, 24):
            for left in (x + 8, x + width / 2 + 3):
                pen.rectangle((left, top, left + 9, top + 12), fill=scale_brightness(color, 1.45))
        x += width
    pen.rectangle((0, horizon, CANVAS, CANVAS), fill=tone((112, 114, 122)))
    pen.rectangle((0, horizon, CANVAS, horizon + 12), fill=tone((178, 176, 172)))
    middle, start = (horizon + CANVAS) // 2 + 16, dice.uniform(-40, 0)
    for i in range(5):
        pen.rectangle((start + 66 * i, middle, start + 66 * i + 36, middle + 7), fill=tone((238, 232, 210)))


def room(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint wallpaper, floor and a rug."""
    wall = tone(dice.choice(((240, 210, 180), (186, 214, 200), (200, 196, 226), (238, 196, 190), (226, 220, 190))))
    pen.rectangle((0, 0, CANVAS, horizon), fill=wall)
    for x in range(int(dice.uniform(0, 32)), CANVAS, 32):
        pen.rectangle((x, 0, x + 12, horizon), fill=scale_brightness(wall, 1.3))
    pen.rectangle((0, horizon - 12, CANVAS, horizon), fill=tone((248, 244, 236)))
    pen.rectangle((0, horizon, CANVAS, CANVAS), fill=tone((160, 112, 92)))
    rug = tone(dice.choice(((150, 70, 80), (70, 96, 140), (90, 126, 96))))
    pen.ellipse((24, horizon + 26, CANVAS - 24, CANVAS + 10), fill=rug)
    pen.ellipse((44, horizon + 36, CANVAS - 44, CANVAS), fill=scale_brightness(rug, 1.2))


def forest(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint three rows of firs."""
    for depth, color in ((0.5, (120, 165, 130)), (0.75, (74, 128, 92)), (1.0, (42, 92, 66))):
        for i in range(7):
            x, h = dice.uniform(-12, 12) + i * 43, dice.uniform(66, 100) * depth
            for level in (0.0, 0.3, 0.6):
                wide, base = 24 * (1 - level * 0.7), horizon + 6 - level * h
                pen.polygon((x - wide, base, x + wide, base, x, base - h * 0.55), fill=tone(color))
    ground(pen, horizon, tone((70, 98, 52)), tone((96, 122, 66)))


def mountains(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint peaks with snow on them."""
    for i in range(4):
        x, h, w = dice.uniform(-20, 20) + i * 80, dice.uniform(60, 110), dice.uniform(70, 100)
        pen.polygon((x - w, horizon, x, horizon - h, x + w, horizon), fill=tone((118, 124, 146)))
        top = ((-0.3, 0.7), (0.0, 1.0), (0.3, 0.7), (0.1, 0.62), (0.0, 0.72), (-0.12, 0.6))
        pen.polygon([(x + a * w, horizon - b * h) for a, b in top], fill=tone((248, 250, 252)))
    ground(pen, horizon, tone((122, 140, 100)), tone((150, 162, 128)))
    for _ in range(9):
        disc(pen, dice.uniform(0, CANVAS), dice.uniform(horizon + 6, CANVAS), dice.uniform(3, 8), tone((136, 136, 138)))


def desert(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint dunes."""
    ground(pen, horizon, tone((214, 150, 84)), tone((236, 190, 124)))
    for i in range(4):
        x, y, w = dice.uniform(0, CANVAS), horizon + 26 * i, dice.uniform(110, 170)
        pen.pieslice((x - w, y - 16, x + w, y + 60), 180, 360, fill=tone((228 - 10 * i, 172 - 10 * i, 102 - 10 * i)))


def snow(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint a field of snow."""
    for _ in range(3):
        x, w = dice.uniform(0, CANVAS), dice.uniform(70, 120)
        pen.pieslice((x - w, horizon - 34, x + w, horizon + 60), 180, 360, fill=tone((214, 226, 240)))
    ground(pen, horizon, tone((250, 252, 255)), tone((228, 236, 246)))
    for _ in range(6):
        x, y, w = dice.uniform(0, CANVAS), dice.uniform(horizon + 10, CANVAS), dice.uniform(14, 34)
        pen.ellipse((x - w, y - 3, x + w, y + 3), fill=tone((212, 224, 240)))


def sea(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint the depth of the sea, with weed and bubbles."""
    bands(pen, 0, CANVAS, tone((96, 196, 214)), tone((18, 84, 140)))
    for i in range(4):
        x = dice.uniform(-10, 10) + 72 * i
        pen.line((x, CANVAS, x + 8, CANVAS - 30, x - 4, CANVAS - 58), fill=tone((40, 132, 110)), width=8, joint="curve")
    pen.rectangle((0, CANVAS - 18, CANVAS, CANVAS), fill=tone((206, 190, 140)))
    for _ in range(10):
        x, y, r = dice.uniform(0, CANVAS), dice.uniform(0, CANVAS - 30), dice.uniform(3, 7)
        pen.ellipse((x - r, y - r, x + r, y + r), outline=tone((214, 240, 248)), width=2)


def paper(pen: Pen, dice: SceneRng, tone: Tone, horizon: int) -> None:
    """Paint a sheet of paper, some of them with lines."""
    sheet = dice.choice(((248, 244, 232), (238, 240, 242), (250, 236, 214), (228, 238, 230), (240, 230, 240)))
    pen.rectangle((0, 0, CANVAS, CANVAS), fill=tone(sheet))
    if dice.bernoulli(0.4):
        for y in range(int(dice.uniform(8, 24)), CANVAS, 24):
            pen.rectangle((0, y, CANVAS, y + 2), fill=tone(scale_brightness(sheet, 0.88)))
