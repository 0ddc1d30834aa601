from __future__ import annotations

import re

import pytest

from pipeline.data.synthetic.backgrounds import PLACES
from pipeline.data.synthetic.captions import (
    CAPTIONS,
    LIGHT_WORDS,
    MEDIUM_WORDS,
    NUMBERS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    caption_scene,
    plural,
    with_article,
)
from pipeline.data.synthetic.object_kinds import KINDS
from pipeline.data.synthetic.rendering import COLORS
from pipeline.data.synthetic.rng import SceneRng
from pipeline.data.synthetic.scenes import Scene, sample_scene


def scenes(count: int) -> list[tuple[Scene, tuple[str, ...]]]:
    told = []
    for number in range(count):
        dice = SceneRng(1, number)
        scene = sample_scene(dice)
        told.append((scene, caption_scene(scene, dice)))
    return told


def has(caption: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase)}\b", caption) is not None


def untrue(caption: str, scene: Scene) -> list[str]:
    """Return the phrases of a caption that the scene does not bear out, by a reading of its own."""
    places = {phrase: name for name, place in PLACES.items() for phrase in place.phrases}
    for phrase, name in sorted(places.items(), key=lambda item: -len(item[0])):
        if has(caption, phrase):
            if name != scene.place:
                return [phrase]
            caption = caption.replace(phrase, "")
    seen = {g.kind for g in scene.groups} | {KINDS[g.kind].family for g in scene.groups}
    seen |= {plural(noun) for noun in seen} | {g.color for g in scene.groups}
    seen |= {word for g in scene.groups for word in (*TEXTURE_WORDS[g.texture], *SIZE_WORDS[g.size], NUMBERS[g.count])}
    seen |= {*LIGHT_WORDS[scene.light], *MEDIUM_WORDS[scene.medium]}
    nouns = [*KINDS, *(kind.family for kind in KINDS.values())]
    words = [*nouns, *map(plural, nouns), *COLORS, *NUMBERS[1:]]
    tables = TEXTURE_WORDS, SIZE_WORDS, LIGHT_WORDS, MEDIUM_WORDS
    words += [word for table in tables for some in table.values() for word in some]
    return [word for word in words if has(caption, word) and word not in seen]


def test_captions_mention_only_what_is_in_the_scene() -> None:
    told = scenes(300)
    for scene, captions in told:
        for caption in captions:
            assert not untrue(caption, scene), (caption, scene)
    # Negative control: most captions are not true of the next scene.
    wrong = [bool(untrue(captions[0], told[i - 1][0])) for i, (_, captions) in enumerate(told)]
    assert sum(wrong) > 0.9 * len(wrong)


def test_every_scene_has_five_captions_and_they_differ() -> None:
    told = scenes(300)
    assert all(len(captions) == CAPTIONS == 5 for _, captions in told)
    assert sum(len(set(captions)) == 5 for _, captions in told) > 0.98 * len(told)


@pytest.mark.parametrize("attribute", ["colour", "texture", "size", "count", "place", "light", "medium"])
def test_each_attribute_is_said_at_times_and_left_out_at_times(attribute: str) -> None:
    said = [
        any(has(c, w) for w in words)
        for scene, captions in scenes(300)
        for c in captions
        if (words := phrases(scene, attribute))
    ]
    assert 0.15 < sum(said) / len(said) < 0.85


def phrases(scene: Scene, attribute: str) -> tuple[str, ...]:
    group = scene.groups[0]
    of_counts = (NUMBERS[group.count],) if group.count > 1 else ()
    return {
        "colour": (group.color,),
        "texture": TEXTURE_WORDS[group.texture],
        "size": SIZE_WORDS[group.size],
        "count": of_counts,
        "place": PLACES[scene.place].phrases,
        "light": LIGHT_WORDS[scene.light],
        "medium": MEDIUM_WORDS[scene.medium],
    }[attribute]


def test_captions_are_english() -> None:
    for _, captions in scenes(300):
        for caption in captions:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |\.\.|there is (two|three|some)", caption), caption
            first = re.split(r" (?:and|with|next to|beside) ", caption)[0]
            assert not re.search(r"\b(two|three|four|five|some|several) (\w+ )*(cat|car|apple|house)\b", first), caption
            assert not re.search(r"\ban? (red |blue |big |striped )*(cats|cars|apples|butterflies)\b", caption), caption


def test_plurals() -> None:
    one = "cat", "butterfly", "bus", "fish", "cactus", "dish"
    assert [plural(noun) for noun in one] == ["cats", "butterflies", "buses", "fish", "cacti", "dishes"]


def test_articles() -> None:
    assert with_article("apple") == "an apple"
    assert with_article("red apple") == "a red apple"
