"""The kinds of things in the drawn world, in the order of how often they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from pipeline.data import sample_creatures as creatures
from pipeline.data import sample_household as household
from pipeline.data import sample_objects as objects
from pipeline.data.sample_curves import Drawing


@dataclass(frozen=True)
class Kind:
    """One kind of thing: how it is drawn, the family it belongs to, and the colours it often has."""

    draw: Callable[[], Drawing]
    family: str
    colours: tuple[str, ...]
    flies: bool = False


KINDS: Mapping[str, Kind] = {
    "cat": Kind(creatures.cat, "animal", ("orange", "black", "grey", "white")),
    "car": Kind(objects.car, "vehicle", ("red", "blue", "yellow")),
    "fish": Kind(creatures.fish, "animal", ("orange", "blue", "turquoise")),
    "boat": Kind(objects.boat, "vehicle", ("blue", "red", "brown")),
    "house": Kind(household.house, "building", ("white", "yellow", "pink", "red")),
    "butterfly": Kind(creatures.butterfly, "animal", ("orange", "yellow", "blue", "purple"), flies=True),
    "mushroom": Kind(objects.mushroom, "plant", ("red", "brown", "orange")),
    "flower": Kind(creatures.flower, "plant", ("pink", "red", "purple", "white")),
    "umbrella": Kind(household.umbrella, "tool", ("red", "black", "blue", "yellow")),
    "mug": Kind(household.mug, "dish", ("white", "blue", "red")),
    "rocket": Kind(objects.rocket, "vehicle", ("white", "red", "grey"), flies=True),
    "dog": Kind(creatures.dog, "animal", ("brown", "black", "white")),
    "guitar": Kind(household.guitar, "instrument", ("orange", "brown", "red")),
    "apple": Kind(objects.apple, "fruit", ("red", "green", "yellow")),
    "bird": Kind(creatures.bird, "animal", ("blue", "red", "yellow", "grey")),
    "tree": Kind(creatures.tree, "plant", ("green", "orange", "red")),
    "bus": Kind(objects.bus, "vehicle", ("red", "yellow", "green")),
    "rabbit": Kind(creatures.rabbit, "animal", ("grey", "brown", "white")),
    "lamp": Kind(household.lamp, "tool", ("yellow", "white", "green")),
    "banana": Kind(objects.banana, "fruit", ("yellow", "green")),
    "clock": Kind(household.clock, "tool", ("red", "turquoise", "grey")),
    "balloon": Kind(objects.balloon, "vehicle", ("red", "yellow", "purple"), flies=True),
    "pear": Kind(objects.pear, "fruit", ("green", "yellow")),
    "snail": Kind(creatures.snail, "animal", ("brown", "orange", "pink")),
    "key": Kind(household.key, "tool", ("yellow", "grey")),
    "chair": Kind(household.chair, "furniture", ("brown", "blue", "red")),
}


@cache
def drawing_of(kind: str) -> Drawing:
    """Return the drawing of a kind."""
    return KINDS[kind].draw()
