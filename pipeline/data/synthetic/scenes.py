"""Sample the content of a synthetic scene, and render it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from pipeline.data.synthetic.backgrounds import LIGHTS, PLACES, paint_place, paint_weather
from pipeline.data.synthetic.object_kinds import KINDS, drawing_of
from pipeline.data.synthetic.rendering import (
    CANVAS,
    COLORS,
    TEXTURES,
    Color,
    ColorScheme,
    Medium,
    Pose,
    downsample,
    paint,
    scale_brightness,
    two_tone,
)
from pipeline.data.synthetic.rng import SceneRng

ZIPF: Mapping[str, float] = {
    "kind": 0.7,
    "colour": 0.6,
    "texture": 3.0,
    "count": 3.0,
    "size": 0.8,
    "place": 0.5,
    "light": 1.4,
    "medium": 0.7,
}
"""Zipf exponent of each attribute: rank r has probability proportional to r^-exponent."""

SIZES: Mapping[str, float] = {"medium": 100.0, "large": 116.0, "small": 80.0}
"""Half of an object's side in canvas pixels, most common size first."""
SIZE_BY_COUNT = (1.0, 0.86, 0.74, 0.66, 0.6)
"""Scale of objects by their number in a picture."""
MEDIA: Mapping[str, Medium] = {
    "print": Medium(),
    "painting": Medium(shaded=True, shadow=True),
    "cartoon": Medium(outline="ink", line=4.5, shadow=True),
    "collage": Medium(outline="white", line=6.0, shadow=True, wobble=0.0),
    "sketch": Medium(outline="ink", line=4.0, hollow=True, wobble=0.04),
}
ON_PAPER = ("print", "sketch")
"""Media without a background place."""
PAPERS: tuple[Color, ...] = (
    (250, 246, 236),
    (34, 34, 48),
    (240, 216, 190),
    (206, 226, 222),
    (30, 62, 80),
    (84, 34, 58),
    (250, 214, 120),
)
"""Papers of prints, on which ink is visible."""


@dataclass(frozen=True)
class Group:
    """Several objects of one kind with equal appearance."""

    kind: str
    color: str
    texture: str
    size: str
    count: int


@dataclass(frozen=True)
class Scene:
    """Everything that captions of a picture may mention."""

    groups: tuple[Group, ...]
    place: str
    light: str
    medium: str


def sample_scene(dice: SceneRng) -> Scene:
    """Return a random scene."""
    first = _group(dice, dice.zipf(range(1, 6), ZIPF["count"]))
    groups = [first]
    if first.count <= 2 and dice.bernoulli(0.1):
        groups += [second for second in [_group(dice, 1)] if second.kind != first.kind]
    medium = dice.zipf(tuple(MEDIA), ZIPF["medium"])
    return Scene(tuple(groups), *_surroundings(medium, dice), medium)


def sample_single(kind: str, medium: str, dice: SceneRng) -> Scene:
    """Return a scene of one object of a kind in a medium; all other attributes are random."""
    group = replace(_group(dice, 1), kind=kind)
    return Scene((group,), *_surroundings(medium, dice), medium)


def _surroundings(medium: str, dice: SceneRng) -> tuple[str, str]:
    """Return the place and its light."""
    place = "paper" if medium in ON_PAPER else dice.zipf(tuple(PLACES), ZIPF["place"])
    return place, dice.zipf(tuple(LIGHTS), ZIPF["light"]) if PLACES[place].outdoors else "day"


def render_scene(scene: Scene, dice: SceneRng) -> UInt8[np.ndarray, "64 64 3"]:
    """Return the picture of a scene; the nearest objects are painted last."""
    coats = {group.kind: make_color_scheme(group.color, group.texture, dice) for group in scene.groups}
    if scene.medium == "print":
        inks = [sum(coat.body) for coat in coats.values()]
        papers = [paper for paper in PAPERS if all(abs(sum(paper) - ink) > 150 for ink in inks)]
        paper = _jitter_color(dice.choice(papers or PAPERS[:2]), dice)
        coats = {kind: two_tone(paper, coat.body, coat.texture) for kind, coat in coats.items()}
        image = _sheet(paper, dice)
    else:
        image = paint_place(scene.place, scene.light, dice)
    groups = [group for group in scene.groups for _ in range(group.count)]
    medium = MEDIA[scene.medium]
    poses = [_pose(group, i, len(groups), scene.medium in ON_PAPER, dice) for i, group in enumerate(groups)]
    for pose, group in sorted(zip(poses, groups, strict=True), key=lambda pair: pair[0].y + pair[0].half):
        if medium.shadow:
            _shadow(image, pose, KINDS[group.kind].flies, scene.place)
        paint(image, drawing_of(group.kind), pose, coats[group.kind], medium)
    paint_weather(image, scene.light, dice)
    return downsample(image)


def make_color_scheme(color: str, texture: str, dice: SceneRng) -> ColorScheme:
    """Return a color scheme near a named color, with random variation."""
    body = _jitter_color(COLORS[color], dice)
    dark = sum(body) < 330
    trim = scale_brightness(body, 1.45) if dark else scale_brightness(body, 0.68)
    pattern = (
        scale_brightness(body, 1.7) if dark or color in ("red", "green", "turquoise") else scale_brightness(body, 0.58)
    )
    return ColorScheme(body, trim, texture, pattern)


def _group(dice: SceneRng, count: int) -> Group:
    kind = dice.zipf(tuple(KINDS), ZIPF["kind"])
    color = dice.choice(KINDS[kind].colors) if dice.bernoulli(0.4) else dice.zipf(tuple(COLORS), ZIPF["colour"])
    texture, size = dice.zipf(TEXTURES, ZIPF["texture"]), dice.zipf(tuple(SIZES), ZIPF["size"])
    return Group(kind, color, texture, size, count)


def _pose(group: Group, i: int, total: int, paper: bool, dice: SceneRng) -> Pose:
    """Return the position of object `i` of `total`: in one row, or two from four on; on the ground or on paper."""
    half = SIZES[group.size] * SIZE_BY_COUNT[min(total, len(SIZE_BY_COUNT)) - 1] * dice.uniform(0.92, 1.08)
    rows = 1 if total <= 3 else 2
    row, columns = i % rows, -(-total // rows) + (rows - 1) / 4
    x = CANVAS * (i // rows + row / 4 + 0.5) / columns + dice.uniform(-14, 14)
    if paper:
        y = CANVAS * (row + 0.5) / rows + dice.uniform(-14, 14)
    else:
        y = CANVAS * (0.93 if row == rows - 1 else 0.68) - dice.uniform(0, 22) - half
        if KINDS[group.kind].flies and dice.bernoulli(0.7):
            y -= dice.uniform(0, max(0.0, CANVAS - 2 * half - 20) * 0.7)
    x, y = (min(max(v, 0.85 * half), CANVAS - 0.85 * half) for v in (x, y))
    return Pose(x, y, half, dice.uniform(-9, 9), dice.bernoulli(0.5), dice.uniform(0.93, 1.07), dice.uniform(0, 6))


def _sheet(paper: Color, dice: SceneRng) -> Image.Image:
    """Return a sheet of paper; every second one has a disc or a panel behind the objects."""
    panel = scale_brightness(paper, dice.choice((0.65, 0.85, 1.4)))
    image = Image.new("RGB", (CANVAS, CANVAS), paper)
    left, top = (CANVAS / 2 - dice.uniform(76, 118) for _ in range(2))
    shape = dice.choice(("none", "none", "disc", "panel"))
    if shape == "disc":
        ImageDraw.Draw(image).ellipse((left, left, CANVAS - left, CANVAS - left), fill=panel)
    elif shape == "panel":
        ImageDraw.Draw(image).rectangle((left, top, CANVAS - left, CANVAS - top), fill=panel)
    return image


def _shadow(image: Image.Image, pose: Pose, flies: bool, place: str) -> None:
    if flies or place in ("sea", "paper"):
        return
    x, y, wide, high = pose.x, pose.y + pose.half * 0.94, pose.half * 0.82, pose.half * 0.16
    ImageDraw.Draw(image, "RGBA").ellipse((x - wide, y - high, x + wide, y + high), fill=(20, 20, 40, 70))


def _jitter_color(color: Color, dice: SceneRng) -> Color:
    light = dice.uniform(-18, 18)
    red, green, blue = (int(max(0, min(255, c + light + dice.uniform(-12, 12)))) for c in color)
    return red, green, blue
