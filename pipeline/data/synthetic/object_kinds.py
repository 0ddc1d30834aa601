"""Kinds of objects in the synthetic scenes, ordered by frequency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from pipeline.data.synthetic import creatures, household, objects
from pipeline.data.synthetic.shapes import Drawing


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object: its drawing, its family, and its usual colors."""

    draw: Callable[[], Drawing]
    family: str
    colors: tuple[str, ...]
    flies: bool = False


KINDS: Mapping[str, ObjectKind] = {
    "cat": ObjectKind(creatures.cat, "animal", ("orange", "black", "grey", "white")),
    "car": ObjectKind(objects.car, "vehicle", ("red", "blue", "yellow")),
    "fish": ObjectKind(creatures.fish, "animal", ("orange", "blue", "turquoise")),
    "boat": ObjectKind(objects.boat, "vehicle", ("blue", "red", "brown")),
    "house": ObjectKind(household.house, "building", ("white", "yellow", "pink", "red")),
    "butterfly": ObjectKind(creatures.butterfly, "animal", ("orange", "yellow", "blue", "purple"), flies=True),
    "mushroom": ObjectKind(objects.mushroom, "plant", ("red", "brown", "orange")),
    "flower": ObjectKind(creatures.flower, "plant", ("pink", "red", "purple", "white")),
    "umbrella": ObjectKind(household.umbrella, "tool", ("red", "black", "blue", "yellow")),
    "mug": ObjectKind(household.mug, "dish", ("white", "blue", "red")),
    "rocket": ObjectKind(objects.rocket, "vehicle", ("white", "red", "grey"), flies=True),
    "dog": ObjectKind(creatures.dog, "animal", ("brown", "black", "white")),
    "guitar": ObjectKind(household.guitar, "instrument", ("orange", "brown", "red")),
    "apple": ObjectKind(objects.apple, "fruit", ("red", "green", "yellow")),
    "bird": ObjectKind(creatures.bird, "animal", ("blue", "red", "yellow", "grey")),
    "tree": ObjectKind(creatures.tree, "plant", ("green", "orange", "red")),
    "bus": ObjectKind(objects.bus, "vehicle", ("red", "yellow", "green")),
    "rabbit": ObjectKind(creatures.rabbit, "animal", ("grey", "brown", "white")),
    "lamp": ObjectKind(household.lamp, "tool", ("yellow", "white", "green")),
    "banana": ObjectKind(objects.banana, "fruit", ("yellow", "green")),
    "clock": ObjectKind(household.clock, "tool", ("red", "turquoise", "grey")),
    "balloon": ObjectKind(objects.balloon, "vehicle", ("red", "yellow", "purple"), flies=True),
    "pear": ObjectKind(objects.pear, "fruit", ("green", "yellow")),
    "snail": ObjectKind(creatures.snail, "animal", ("brown", "orange", "pink")),
    "key": ObjectKind(household.key, "tool", ("yellow", "grey")),
    "chair": ObjectKind(household.chair, "furniture", ("brown", "blue", "red")),
}


@cache
def drawing_of(kind: str) -> Drawing:
    """Return the drawing of a kind."""
    return KINDS[kind].draw()
