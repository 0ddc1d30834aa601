"""Captions of synthetic scenes: true, short, and incomplete."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.data.synthetic.backgrounds import PLACES
from pipeline.data.synthetic.object_kinds import KINDS
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import Group, Scene

CAPTIONS = 5
"""Captions per image, as in COCO."""
TRIES = 12
"""Attempts to find a new caption; a simple scene has few."""

PLURALS: Mapping[str, str] = {"fish": "fish", "cactus": "cacti"}
NUMBERS = ("", "one", "two", "three", "four", "five")
SIZE_WORDS: Mapping[str, tuple[str, ...]] = {"small": ("small", "little"), "large": ("large", "big"), "medium": ()}
TEXTURE_WORDS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "striped": ("striped",),
    "spotted": ("spotted", "dotted"),
    "checked": ("checked",),
}
LIGHT_WORDS: Mapping[str, tuple[str, ...]] = {
    "day": (),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "under the stars"),
    "rain": ("in the rain",),
    "snowfall": ("while it snows",),
}
MEDIUM_WORDS: Mapping[str, tuple[str, ...]] = {
    "painting": ("a painting of",),
    "print": ("a print of", "a print with"),
    "cartoon": ("a cartoon of",),
    "sketch": ("a sketch of", "a drawing of"),
    "collage": ("a collage with", "a paper cut-out of"),
}
ANY_MEDIUM = ("a picture of", "an image of", "a photo of", "there is", "we see", "look,")


def caption_scene(scene: Scene, dice: SceneRng) -> tuple[str, ...]:
    """Return five true captions; each omits attributes at random."""
    captions: list[str] = []
    for _ in range(CAPTIONS):
        caption = _caption(scene, dice)
        for _ in range(TRIES):
            caption = _caption(scene, dice) if caption in captions else caption
        captions.append(caption)
    return tuple(captions)


def plural(noun: str) -> str:
    """Return the plural of a kind or a family."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("y"):
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch")) else "s")


def with_article(phrase: str) -> str:
    """Return the phrase behind `a` or `an`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _caption(scene: Scene, dice: SceneRng) -> str:
    things = [_things(group, dice) for group in scene.groups]
    if len(things) == 2:
        order = (1, 0) if dice.bernoulli(0.3) else (0, 1)
        joint = dice.choice(("and", "next to", "beside", "with"))
        things = [f"{things[order[0]]} {joint} {things[order[1]]}"] if dice.bernoulli(0.7) else [things[0]]
    words = [things[0]]
    if dice.bernoulli(0.55):
        words.append(dice.choice(PLACES[scene.place].phrases))
    if LIGHT_WORDS[scene.light] and dice.bernoulli(0.5):
        words.append(dice.choice(LIGHT_WORDS[scene.light]))
    if dice.bernoulli(0.5):
        own = MEDIUM_WORDS[scene.medium]
        words.insert(0, _number_agreement(dice.choice(own if dice.bernoulli(0.5) else ANY_MEDIUM), scene, things[0]))
    return " ".join(words) + ("." if dice.bernoulli(0.5) else "")


def _number_agreement(opening: str, scene: Scene, things: str) -> str:
    alone = " and " not in things and " with " not in things
    one = alone and things.startswith(("a ", "an ", "one "))
    return "there are" if opening == "there is" and not one else opening


def _things(group: Group, dice: SceneRng) -> str:
    noun = group.kind if dice.bernoulli(0.93) else KINDS[group.kind].family
    words = [noun if group.count == 1 else plural(noun)]
    if dice.bernoulli(0.6):
        words.insert(0, group.color)
    if TEXTURE_WORDS[group.texture] and dice.bernoulli(0.6):
        words.insert(0, dice.choice(TEXTURE_WORDS[group.texture]))
    if SIZE_WORDS[group.size] and dice.bernoulli(0.6):
        words.insert(0, dice.choice(SIZE_WORDS[group.size]))
    if group.count == 1:
        return with_article(" ".join(words))
    if dice.bernoulli(0.7):
        words.insert(0, NUMBERS[group.count])
    elif group.count >= 3 and dice.bernoulli(0.5):
        words.insert(0, dice.choice(("some", "several")))
    return " ".join(words)
