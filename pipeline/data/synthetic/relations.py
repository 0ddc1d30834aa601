"""Exact choices from the synthetic scenes: two pictures, two captions, each caption true of one picture only.

    binding   a blue apple and a yellow pear     / a yellow apple and a blue pear
    place     a cat to the left of a mug         / a mug to the left of a cat
    negation  a clock but no bird                / no clock but a bird
    number    one butterfly and two mushrooms    / two butterflies and one mushroom

Both pictures of a group have their objects at the same positions, but different backgrounds. The order of mention is
independent of the positions, so a caption alone does not reveal its picture. Both captions of a group name the objects
in the same order (except for `place`, where the order is the difference), so that a text tower cannot solve the choice
from word order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from pipeline.data.synthetic.backgrounds import PLACES, paint_place
from pipeline.data.synthetic.captions import NUMBERS, plural, with_article
from pipeline.data.synthetic.object_kinds import KINDS, drawing_of
from pipeline.data.synthetic.rendering import CANVAS, Medium, Pose, downsample, paint
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import MEDIA, make_color_scheme

TASKS = ("binding", "place", "negation", "number")
STREAMS: Mapping[str, int] = {"relations-train": 101, "relations-val": 102, "relations-unseen": 103}
"""Parts: one to fit scorers, one of the same distribution, and one with kinds that occur in neither."""
UNSEEN_KINDS = ("banana", "snail", "chair", "rabbit", "lamp", "bus")
SEEN_KINDS = tuple(kind for kind in KINDS if kind not in UNSEEN_KINDS)
COLORS = ("red", "blue", "yellow", "green", "purple", "white", "black", "orange")
"""Colors that can be distinguished in every light."""
OPENINGS = ("", "", "a picture of", "a photo of", "we see")
RELATIONS: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "to the left of": ((0.27, 0.5), (0.73, 0.5)),
    "to the right of": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.75)),
    "below": ((0.5, 0.75), (0.5, 0.27)),
}
"""Positions of the first and the second of two objects, as fractions of the canvas."""
DENIALS = (
    ("{a} but no {b}", "no {a} but {b}"),
    ("{a} and no {b}", "no {a} and {b}"),
    ("a scene with {a} but without {b}", "a scene without {a} but with {b}"),
)
"""Phrases for the cases that the first, or the second, of two objects is present."""
PAIR, CROWD, ALONE = 66.0, 42.0, 92.0
"""Half of an object's side in canvas pixels: with two, up to five, or one object."""
CELLS = tuple((x, y) for y in (0.3, 0.74) for x in (0.19, 0.5, 0.81))
_MEDIA = ("painting", "cartoon", "collage")


@dataclass(frozen=True)
class Thing:
    """One object in a picture: its kind, color and position."""

    kind: str
    color: str
    place: tuple[float, float]
    half: float


@dataclass(frozen=True)
class RelationScene:
    """Objects of a picture, its true caption, and the true caption of its counterpart."""

    things: tuple[Thing, ...]
    caption: str
    foil: str
    task: str
    group: str
    medium: str


def imagine_relation(part: str, number: int, seed: int = 0) -> RelationScene:
    """Return scene `number` of a part: 2g and 2g + 1 are counterparts; tasks alternate by group."""
    group, member = divmod(number, 2)
    task = TASKS[group % len(TASKS)]
    dice = SceneRng(STREAMS[part], 4 * group, seed)
    scenes, captions = _IMAGINED[task](dice, UNSEEN_KINDS if part == "relations-unseen" else SEEN_KINDS)
    opening = "" if "scene" in captions[0] else dice.choice(OPENINGS)
    captions = tuple(f"{opening} {caption}".strip() for caption in captions)
    medium = dice.choice(_MEDIA)
    return RelationScene(scenes[member], captions[member], captions[1 - member], task, f"{group:06d}", medium)


def draw_relation(part: str, number: int, seed: int = 0) -> tuple[UInt8[np.ndarray, "64 64 3"], RelationScene]:
    """Return the picture of a scene, and the scene."""
    scene = imagine_relation(part, number, seed)
    group, member = divmod(number, 2)
    return paint_things(scene.things, MEDIA[scene.medium], SceneRng(STREAMS[part], 4 * group + 1 + member, seed)), scene


def paint_things(things: Sequence[Thing], medium: Medium, dice: SceneRng) -> UInt8[np.ndarray, "64 64 3"]:
    """Return a picture of objects at given positions, in front of a place by day."""
    image = paint_place(dice.choice(tuple(PLACES)), "day", dice)
    for thing in things:
        x, y = (CANVAS * fraction + dice.uniform(-9, 9) for fraction in thing.place)
        half = thing.half * dice.uniform(0.92, 1.08)
        pose = Pose(x, y, half, dice.uniform(-9, 9), dice.bernoulli(0.5), dice.uniform(0.93, 1.07), dice.uniform(0, 6))
        paint(image, drawing_of(thing.kind), pose, make_color_scheme(thing.color, "plain", dice), medium)
    return downsample(image)


Scenes = tuple[tuple[Thing, ...], tuple[Thing, ...]]
Captions = tuple[str, ...]


def _two(dice: SceneRng, choices: Sequence[str]) -> tuple[str, str]:
    first = dice.choice(choices)
    return first, dice.choice([choice for choice in choices if choice != first])


def _binding(dice: SceneRng, kinds: Sequence[str]) -> tuple[Scenes, Captions]:
    (a, b), (c, d) = _two(dice, kinds), _two(dice, COLORS)
    first, second = RELATIONS[dice.choice(tuple(RELATIONS))]
    scenes = tuple((Thing(a, x, first, PAIR), Thing(b, y, second, PAIR)) for x, y in ((c, d), (d, c)))
    names = [(a, c, d), (b, d, c)]
    if dice.bernoulli(0.5):
        names.reverse()
    captions = tuple(" and ".join(with_article(f"{name[1 + k]} {name[0]}") for name in names) for k in (0, 1))
    return (scenes[0], scenes[1]), captions


def _place(dice: SceneRng, kinds: Sequence[str]) -> tuple[Scenes, Captions]:
    (a, b), relation = _two(dice, kinds), dice.choice(tuple(RELATIONS))
    first, second = RELATIONS[relation]
    x, y = dice.choice(COLORS), dice.choice(COLORS)
    scenes = tuple((Thing(a, x, p, PAIR), Thing(b, y, q, PAIR)) for p, q in ((first, second), (second, first)))
    captions = tuple(f"{with_article(m)} {relation} {with_article(n)}" for m, n in ((a, b), (b, a)))
    return (scenes[0], scenes[1]), captions


def _negation(dice: SceneRng, kinds: Sequence[str]) -> tuple[Scenes, Captions]:
    (a, b), denial = _two(dice, kinds), dice.choice(DENIALS)
    where = dice.uniform(0.35, 0.65), dice.uniform(0.4, 0.6)
    scenes = tuple((Thing(kind, dice.choice(COLORS), where, ALONE),) for kind in (a, b))
    both = {"a": with_article(a), "b": with_article(b)}
    captions = tuple(phrase.format(**both) for phrase in denial)
    return (scenes[0], scenes[1]), tuple(
        caption.replace("no a ", "no ").replace("no an ", "no ") for caption in captions
    )


def _number(dice: SceneRng, kinds: Sequence[str]) -> tuple[Scenes, Captions]:
    a, b = _two(dice, kinds)
    m, n = dice.choice(((1, 2), (1, 3), (2, 3), (2, 1), (3, 1), (3, 2)))
    cells = list(CELLS)
    order = [cells.pop(int(dice.uniform() * len(cells))) for _ in range(m + n)]
    x, y = dice.choice(COLORS), dice.choice(COLORS)
    scenes = tuple(
        tuple(Thing(*((a, x) if i < k else (b, y)), place, CROWD) for i, place in enumerate(order)) for k in (m, n)
    )
    captions = tuple(f"{_counted(a, k)} and {_counted(b, m + n - k)}" for k in (m, n))
    return (scenes[0], scenes[1]), captions


def _counted(kind: str, count: int) -> str:
    return f"{NUMBERS[count]} {kind if count == 1 else plural(kind)}"


_IMAGINED = {"binding": _binding, "place": _place, "negation": _negation, "number": _number}
