from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pipeline.data.synthetic.backgrounds import LIGHTS, PLACES
from pipeline.data.synthetic.object_kinds import KINDS
from pipeline.data.synthetic.rendering import COLORS, TEXTURES
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import MEDIA, ON_PAPER, SIZES, ZIPF, Scene, render_scene, sample_scene

SCENES = [sample_scene(SceneRng(1, number)) for number in range(4000)]


@pytest.mark.parametrize(
    ("attribute", "choices", "of"),
    [
        ("kind", tuple(KINDS), lambda s: s.groups[0].kind),
        ("texture", TEXTURES, lambda s: s.groups[0].texture),
        ("size", tuple(SIZES), lambda s: s.groups[0].size),
        ("count", (1, 2, 3, 4, 5), lambda s: s.groups[0].count),
        ("medium", tuple(MEDIA), lambda s: s.medium),
        ("place", tuple(PLACES), lambda s: None if s.medium in ON_PAPER else s.place),
        ("light", tuple(LIGHTS), lambda s: s.light if PLACES[s.place].outdoors else None),
    ],
)
def test_frequencies_follow_zipfs_law(
    attribute: str, choices: tuple[object, ...], of: Callable[[Scene], object]
) -> None:
    counts = Counter(of(scene) for scene in SCENES)
    observed = np.array([counts[choice] for choice in choices])
    law = np.arange(1, len(choices) + 1) ** -ZIPF[attribute]
    assert stats.chisquare(observed, observed.sum() * law / law.sum()).pvalue > 1e-4
    # Negative control: they are not all the same.
    assert stats.chisquare(observed).pvalue < 1e-6


def test_colors_lean_to_those_that_things_often_have() -> None:
    fish = Counter(s.groups[0].color for s in SCENES if s.groups[0].kind == "fish")
    assert set(fish) == set(COLORS)
    assert sum(fish[color] for color in KINDS["fish"].colors) > 0.45 * fish.total()


def test_there_are_many_kinds_places_and_colors() -> None:
    assert len(KINDS) >= 24
    assert len(PLACES) >= 10
    assert len(COLORS) >= 12


def test_some_pictures_show_two_kinds_and_never_the_same_twice() -> None:
    pairs = [scene.groups for scene in SCENES if len(scene.groups) == 2]
    assert 0.05 < len(pairs) / len(SCENES) < 0.4
    assert all(first.kind != second.kind for first, second in pairs)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("light", LIGHTS)
def test_every_place_can_be_painted_in_every_light(place: str, light: str) -> None:
    scene = Scene(SCENES[0].groups, place, light, "painting")
    image = render_scene(scene, SceneRng(1, 0))
    assert image.shape == (64, 64, 3)
    assert image.std() > 10


def test_the_light_is_seen_outdoors() -> None:
    scenes = [Scene(SCENES[0].groups, "meadow", light, "painting") for light in ("night", "day")]
    night, day = (render_scene(scene, SceneRng(1, 0)).mean() for scene in scenes)
    assert night < 0.7 * day
