"""Paint an object on a canvas: colors, texture and medium."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageChops, ImageDraw

from pipeline.data.synthetic.shapes import Drawing

SIDE = 64
"""Side of a finished image in pixels."""
FINE = 4
"""Canvas pixels per finished pixel; edges are smoothed by averaging FINE × FINE of them."""
CANVAS = SIDE * FINE

Color = tuple[int, int, int]

COLORS: Mapping[str, Color] = {
    "red": (214, 48, 49),
    "blue": (45, 105, 205),
    "yellow": (247, 205, 60),
    "green": (60, 160, 75),
    "orange": (240, 132, 40),
    "purple": (130, 70, 175),
    "pink": (245, 145, 180),
    "white": (247, 245, 238),
    "brown": (130, 82, 45),
    "black": (48, 46, 52),
    "grey": (140, 143, 150),
    "turquoise": (55, 190, 185),
}
NATURAL: Mapping[str, Color] = {
    "ink": (42, 36, 44),
    "limb": (42, 36, 44),
    "white": (250, 248, 242),
    "pink": (242, 150, 165),
    "leaf": (70, 150, 70),
    "wood": (140, 92, 55),
    "glass": (170, 215, 240),
    "glow": (255, 222, 110),
    "fire": (248, 130, 40),
    "cream": (244, 222, 180),
    "steam": (232, 234, 240),
}
"""Parts that keep their color whatever the object's color."""

TEXTURES = ("plain", "striped", "spotted", "checked")


@dataclass(frozen=True)
class Medium:
    """Style in which an object is painted."""

    outline: Literal["none", "ink", "white"] = "none"
    line: float = 0.0
    """Width of the outline in canvas pixels."""
    hollow: bool = False
    """Each shape is an ink outline filled with its color."""
    shaded: bool = False
    """Lighter towards the light source at the upper left."""
    shadow: bool = False
    wobble: float = 0.02
    """Random displacement of outlines, relative to half the object's size."""


@dataclass(frozen=True)
class Pose:
    """Position of an object, in canvas pixels."""

    x: float
    y: float
    half: float
    tilt: float = 0.0
    flip: bool = False
    stretch: float = 1.0
    phase: float = 0.0


@dataclass(frozen=True)
class ColorScheme:
    """Colors of an object's parts, and its texture."""

    body: Color
    trim: Color
    texture: str = "plain"
    pattern: Color = (255, 255, 255)
    roles: Mapping[str, Color] = field(default_factory=lambda: NATURAL)

    def of(self, role: str) -> Color:
        """Return the color of a part."""
        return self.body if role == "body" else self.trim if role == "trim" else self.roles[role]


def paint(image: Image.Image, thing: Drawing, pose: Pose, coat: ColorScheme, medium: Medium) -> None:
    """Paint one object on a canvas."""
    points, outward = _posed(thing, pose, medium.wobble)
    pen = ImageDraw.Draw(image)
    if medium.outline != "none" and not medium.hollow:
        _grown(pen, thing, points + outward * medium.line, coat.of("white" if medium.outline == "white" else "ink"))
    for role, start, stop, area in thing.parts:
        here, away = points[start:stop], outward[start:stop]
        if medium.hollow:
            _polygon(pen, here + away * (medium.line / 2), coat.of("ink"))
            here = here - away * (medium.line / 2)
        color = coat.of(role)
        large = area > 0.12 and role in ("body", "trim")
        if medium.shaded and large:
            _polygon(pen, here, scale_brightness(color, 0.8))
            here = here - away * (0.05 * pose.half) - (0.03 * pose.half, 0.04 * pose.half)
        _polygon(pen, here, color)
        if role == "body" and coat.texture != "plain" and area > 0.1:
            _texture(image, here, coat, pose)


def two_tone(ground: Color, ink: Color, texture: str = "plain") -> ColorScheme:
    """Return a scheme with one ground color, one ink, and a tone between them."""
    red, green, blue = ((a + 2 * b) // 3 for a, b in zip(ground, ink, strict=True))
    tone = red, green, blue
    tones = {"wood": tone, "cream": tone, "fire": tone, "steam": tone}
    return ColorScheme(ink, tone, texture, tone, {**dict.fromkeys(NATURAL, ground), "leaf": ink, "limb": ink, **tones})


def scale_brightness(color: Color, light: float) -> Color:
    """Return a color darker (light < 1) or nearer to white (light > 1)."""
    if light <= 1:
        return int(color[0] * light), int(color[1] * light), int(color[2] * light)
    red, green, blue = (int(c + (255 - c) * (light - 1)) for c in color)
    return red, green, blue


def downsample(image: Image.Image) -> UInt8[np.ndarray, "64 64 3"]:
    """Return the canvas at its final size, each pixel the mean of FINE × FINE."""
    return np.array(image.reduce(FINE))


def _posed(thing: Drawing, pose: Pose, wobble: float) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    angle = np.radians(pose.tilt)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn = np.array([[-pose.stretch if pose.flip else pose.stretch], [1 / pose.stretch]]) * turn
    points = thing.points + wobble * np.sin(4 * thing.points[:, ::-1] + pose.phase) if wobble else thing.points
    return points @ turn * pose.half + (pose.x, pose.y), thing.outward @ turn


def _grown(pen: ImageDraw.ImageDraw, thing: Drawing, points: Float[np.ndarray, "n 2"], color: Color) -> None:
    for role, start, stop, _ in thing.parts:
        if role != "steam":
            _polygon(pen, points[start:stop], color)


def _polygon(pen: ImageDraw.ImageDraw, points: Float[np.ndarray, "n 2"], color: Color | int) -> None:
    pen.polygon(points.ravel().tolist(), fill=color)


def _texture(image: Image.Image, points: Float[np.ndarray, "n 2"], coat: ColorScheme, pose: Pose) -> None:
    left, top = (max(0, int(v)) for v in points.min(axis=0))
    right, bottom = (min(CANVAS, int(v) + 2) for v in points.max(axis=0))
    if right <= left or bottom <= top:
        return
    mask = Image.new("L", (right - left, bottom - top))
    _polygon(ImageDraw.Draw(mask), points - (left, top), 255)
    period = max(14, min(36, int(pose.half * 0.36)))
    sheet = _sheet(coat.texture, period // 2 * 2).crop((0, 0, right - left, bottom - top))
    image.paste(coat.pattern, (left, top, right, bottom), ImageChops.multiply(mask, sheet))


@cache
def _sheet(texture: str, period: int) -> Image.Image:
    row, column = np.mgrid[0:CANVAS, 0:CANVAS] % period
    half = period / 2
    if texture == "striped":
        on = row < half
    elif texture == "spotted":
        down, across = np.mgrid[0:CANVAS, 0:CANVAS]
        across = (across + (down // period % 2) * (period // 2)) % period
        on = (row - half) ** 2 + (across - half) ** 2 < (0.32 * period) ** 2
    else:
        on = (row < half) != (column < half)
    return Image.fromarray(np.where(on, np.uint8(255), np.uint8(0)))
