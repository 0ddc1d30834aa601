from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from pipeline.data.synthetic.object_kinds import KINDS, drawing_of
from pipeline.data.synthetic.rendering import (
    CANVAS,
    TEXTURES,
    ColorScheme,
    Medium,
    Pose,
    downsample,
    paint,
    scale_brightness,
    two_tone,
)
from pipeline.data.synthetic.scenes import MEDIA
from pipeline.data.synthetic.shapes import box, drawing

RED, GREEN, GROUND = (200, 30, 30), (30, 200, 30), (128, 128, 128)
MIDDLE = Pose(CANVAS / 2, CANVAS / 2, 110)


def painted(kind: str, pose: Pose = MIDDLE, medium: Medium | None = None, texture: str = "plain") -> np.ndarray:
    image = Image.new("RGB", (CANVAS, CANVAS), GROUND)
    paint(image, drawing_of(kind), pose, ColorScheme(RED, GREEN, texture, (10, 10, 10)), medium or Medium(wobble=0))
    return downsample(image)


def covered(image: np.ndarray) -> np.ndarray:
    return np.any(image != GROUND, axis=2)


def test_edges_are_smooth() -> None:
    image = Image.new("RGB", (CANVAS, CANVAS))
    square = drawing(("body", box(-0.505, -0.505, 0.505, 0.505)))
    paint(image, square, Pose(CANVAS / 2, CANVAS / 2, 100, 20), ColorScheme((255, 255, 255), RED), Medium(wobble=0))
    gray = downsample(image)[..., 0]
    assert ((gray > 20) & (gray < 235)).sum() > 40
    # Its area in pixels is that of the square, (2 · 0.505 · 100 / 4)².
    assert gray.sum() / 255 == pytest.approx(25.25**2, rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_seen_in_every_medium(kind: str) -> None:
    for medium in MEDIA.values():
        assert 0.06 < covered(painted(kind, medium=medium)).mean() < 0.8


def test_no_two_kinds_have_the_same_shape() -> None:
    shapes = {kind: covered(painted(kind)) for kind in KINDS}
    for one, other in combinations(shapes, 2):
        overlap = (shapes[one] & shapes[other]).sum() / (shapes[one] | shapes[other]).sum()
        assert overlap < 0.85, (one, other, overlap)


def test_a_flipped_thing_is_its_mirror_image() -> None:
    flipped = painted("dog", Pose(CANVAS / 2, CANVAS / 2, 110, flip=True))
    straight = painted("dog")
    assert (covered(flipped[:, ::-1]) != covered(straight)).mean() < 0.02  # a polygon's last pixel lies to one side
    assert (covered(flipped) != covered(straight)).mean() > 0.05


def test_textures_differ_from_plain_and_from_each_other() -> None:
    images = [painted("apple", texture=texture) for texture in TEXTURES]
    for one, other in combinations(images, 2):
        assert np.any(one != other, axis=2).mean() > 0.04


def test_a_thing_may_stand_half_outside() -> None:
    assert 0 < covered(painted("car", Pose(-20, 300, 110), texture="striped")).mean() < 0.2
    assert not covered(painted("car", Pose(-500, -500, 60), texture="striped")).any()


def test_two_inks_are_ground_ink_and_one_tone_between() -> None:
    coat = two_tone((0, 0, 0), (255, 240, 90))
    colors = {coat.of(role) for role in ("body", "trim", "ink", "white", "leaf", "wood", "glass", "glow", "fire")}
    assert colors == {(0, 0, 0), (255, 240, 90), (170, 160, 60)}


def test_tinting_goes_to_black_and_to_white() -> None:
    assert scale_brightness(RED, 0) == (0, 0, 0)
    assert scale_brightness(RED, 1) == RED
    assert scale_brightness(RED, 2) == (255, 255, 255)
