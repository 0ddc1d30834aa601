"""Exact choices from the drawn world: each caption is true of its own picture and false of the counterpart."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.data.synthetic.relations import (
    TASKS,
    UNSEEN_KINDS,
    RelationScene,
    Thing,
    draw_relation,
    imagine_relation,
)

NUMBERS = {"one": 1, "two": 2, "three": 3}
SCENES = [imagine_relation("relations-train", number) for number in range(1600)]


def true_of(caption: str, things: tuple[Thing, ...]) -> bool:
    """Read a caption word by word, and look."""
    kinds = [thing.kind for thing in things]
    if relation := re.search(r"(\w+) (to the left of|to the right of|above|below) an? (\w+)$", caption):
        a, name, b = relation.groups()
        if a not in kinds or b not in kinds:
            return False
        (x, y), (u, v) = (next(t.place for t in things if t.kind == kind) for kind in (a, b))
        return {"to the left of": x < u, "to the right of": x > u, "above": y < v, "below": y > v}[name]
    if counts := re.findall(r"\b(one|two|three) (\w+)", caption):
        return all(sum(_singular(word) == kind for kind in kinds) == NUMBERS[number] for number, word in counts)
    if re.search(r"\bno\b|without", caption):
        denied = set(re.findall(r"(?:\bno|without an?) (\w+)", caption))
        named = set(re.findall(r"\b(?:a|an|no) (\w+)", caption)) - {"picture", "photo", "scene"}
        return not denied & set(kinds) and named - denied <= set(kinds)
    pairs = re.findall(r"\ban? (\w+) (\w+)(?= and|$)", caption)
    return len(pairs) == 2 and all((kind, color) in {(t.kind, t.color) for t in things} for color, kind in pairs)


def _singular(word: str) -> str:
    plain = {
        "fish": "fish",
        "buses": "bus",
        "butterflies": "butterfly",
        "keies": "key",
    }  # as the world's captions have it
    return plain.get(word, word.removesuffix("s"))


def counterpart(number: int) -> RelationScene:
    return SCENES[number ^ 1]


@pytest.mark.parametrize("task", TASKS)
def test_each_caption_is_true_of_its_own_picture_and_of_no_other(task: str) -> None:
    rows = [number for number, scene in enumerate(SCENES) if scene.task == task]
    assert len(rows) == 400
    for number in rows:
        scene, other = SCENES[number], counterpart(number)
        assert true_of(scene.caption, scene.things), scene
        assert not true_of(scene.caption, other.things), scene
        assert (scene.foil, scene.group, scene.task) == (other.caption, other.group, other.task)


def test_place_and_order_of_mention_are_independent() -> None:
    """The first thing named stands left as often as right: no shortcut."""
    left = []
    for scene in SCENES:
        if scene.task == "binding" and scene.things[0].place[0] != scene.things[1].place[0]:
            first = min(scene.things, key=lambda thing: scene.caption.index(f"{thing.color} {thing.kind}"))
            left.append(first.place[0] < 0.5)
    assert 0.35 < np.mean(left) < 0.65
    assert len(left) > 100


def test_some_kinds_are_kept_for_the_unseen_part_alone() -> None:
    unseen = [imagine_relation("relations-unseen", number) for number in range(200)]
    assert {thing.kind for scene in unseen for thing in scene.things} == set(UNSEEN_KINDS)
    assert not {thing.kind for scene in SCENES for thing in scene.things} & set(UNSEEN_KINDS)
    assert not any(kind in scene.caption.split() for scene in SCENES for kind in UNSEEN_KINDS)


def test_a_picture_depends_on_part_number_and_seed_alone() -> None:
    image, scene = draw_relation("relations-val", 7)
    again, _ = draw_relation("relations-val", 7)
    np.testing.assert_array_equal(image, again)
    assert image.shape == (64, 64, 3)
    for part, number, seed in (("relations-train", 7, 0), ("relations-val", 15, 0), ("relations-val", 7, 1)):
        assert not np.array_equal(image, draw_relation(part, number, seed)[0])
    assert scene.task == TASKS[3]
