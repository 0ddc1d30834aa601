"""Worlds in which number is told differently: each caption is true of its picture and of no other of its group."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.relation_worlds import WORLDS, counted
from pipeline.data.synthetic.relations import SEEN_KINDS, UNSEEN_KINDS, Thing


def told(things: tuple[Thing, ...]) -> set[str]:
    """Return what a caption may say of a picture, in either order of mention."""
    one, two = Counter(thing.kind for thing in things).items()
    return {f"{counted(*first)} and {counted(*second)}" for first, second in ((one, two), (two, one))}


@pytest.mark.parametrize("name", WORLDS)
def test_a_caption_is_true_of_its_own_picture_alone(name: str) -> None:
    world = WORLDS[name]
    for group in range(12):
        (image, one), (other_image, two) = (world.draw("relations-val", 2 * group + member, 3) for member in (0, 1))
        assert one.caption in told(one.things)
        assert two.caption in told(two.things)
        assert one.foil == two.caption
        assert two.foil == one.caption
        assert one.foil not in told(one.things)
        assert {thing.place for thing in one.things} == {thing.place for thing in two.things}
        assert one.group == two.group
        assert not np.array_equal(image, other_image)


def test_what_the_captions_exchange_is_what_the_world_says() -> None:
    for name, world in WORLDS.items():
        _, scene = world.draw("relations-train", 0, 0)
        numbers = [caption.split()[0] for caption in (scene.caption, scene.foil)]
        assert (numbers[0] == numbers[1]) == (world.exchanged == "kinds"), name


def test_unseen_kinds_are_in_their_part_alone_and_a_scene_is_a_function_of_part_number_and_seed() -> None:
    world = WORLDS["row"]
    for part, kinds in (("relations-train", SEEN_KINDS), ("relations-unseen", UNSEEN_KINDS)):
        scenes = [world.draw(part, number, 1)[1] for number in range(20)]
        assert {thing.kind for scene in scenes for thing in scene.things} <= set(kinds)
        assert scenes == [world.draw(part, number, 1)[1] for number in range(20)]
        assert scenes != [world.draw(part, number, 2)[1] for number in range(20)]
