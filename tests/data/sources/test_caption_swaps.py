"""Foils by rule: one thing said wrong, never what another caption of the image says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.caption_swaps import OBJECTS, CaptionSwaps, swapped_choices
from pipeline.data.sources.listing import Entry
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime


@pytest.mark.parametrize(
    ("rule", "caption", "foil"),
    [
        ("swap-attribute", "A black dog and a white cat .", "A white dog and a black cat ."),
        ("replace-relation", "a boy in front of a house", "a boy behind a house"),
        ("replace-relation", "A cat UNDER a table", "A cat over a table"),
    ],
)
def test_a_rule_changes_what_it_names_and_nothing_else(rule: str, caption: str, foil: str) -> None:
    (choice,) = swapped_choices([caption], [rule])  # type: ignore[list-item]
    assert (choice.caption, choice.foils, choice.task) == (caption, (foil,), rule)


@pytest.mark.parametrize("rule", ["replace-attribute", "replace-object", "replace-number"])
def test_what_another_caption_of_the_image_says_is_never_put_in(rule: str) -> None:
    first = "two young dogs and a dog with a red ball"
    others = [f"a {word}" for word in OBJECTS if word not in ("dog", "boat")]
    others += ["black white blue yellow green brown pink orange", "three four five"]
    (choice,) = swapped_choices([first, *others], [rule])[:1]  # type: ignore[list-item]
    changed = set(choice.foils[0].split()) - set(first.split())
    assert changed == {{"replace-attribute": "purple", "replace-object": "boat", "replace-number": "six"}[rule]}


def test_a_denial_has_the_same_words_in_caption_and_foil() -> None:
    (choice,) = swapped_choices(["a dog on a beach"], ["negation"])
    assert sorted(choice.caption.split()) == sorted(choice.foils[0].split())
    present = {"dog", "beach"}
    assert choice.caption.split()[1] in present
    assert choice.caption.split()[-1] not in present


def test_a_caption_without_a_word_to_change_gives_no_choice() -> None:
    assert swapped_choices(["something happens"], ["swap-attribute", "replace-number", "negation"]) == ()


def test_a_choice_set_is_made_of_a_captioned_source(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = {"a.png": "a black dog and a white cat", "b.png": "nothing to see"}
    for name in rows:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name)
    table = tmp_path / "captions.jsonl"
    table.write_text("\n".join(json.dumps({"image": i, "caption": c}) for i, c in rows.items()), encoding="utf-8")
    captioned = {"source": "table", "images": str(tmp_path / "images"), "captions": str(table)}
    layout = Layout(tmp_path / "project")
    source = parse_source({"source": "swaps", "of": captioned, "rules": ["swap-attribute"]}, "index.swaps")
    index("swaps", source, layout)
    pack("swaps", source, PackParams(), layout, Runtime(workers=0))
    packed = open_packed(layout.packed("swaps"))
    (sample,) = packed.read(0)
    assert (sample.key, sample.choices[0].foils) == ("a", ("a white dog and a black cat",))
    silent = parse_source({"source": "swaps", "of": captioned, "rules": ["replace-number"]}, "index.silent")
    index("silent", silent, layout)
    with pytest.raises(UsageError, match="no choice for any of 2 images"):
        pack("silent", silent, PackParams(), layout, Runtime(workers=0))


def test_long_captions_are_left_out_and_their_words_are_still_of_the_image(tmp_path: Path) -> None:
    captions = ["a black dog and a white cat", "a black dog and a white cat beside a red and a blue ball"]
    entry = Entry("a", "a.png", captions=tuple(captions))
    (tmp_path / "images").mkdir()
    rules = ["swap-attribute", "replace-attribute"]
    captioned = {"source": "table", "images": str(tmp_path / "images"), "captions": str(tmp_path / "captions.jsonl")}
    given = {"source": "swaps", "of": captioned, "rules": rules}
    every, short = (parse_source(given | more, "index.swaps") for more in ({}, {"max_words": 7}))
    assert isinstance(every, CaptionSwaps)
    assert isinstance(short, CaptionSwaps)
    assert {choice.caption for choice in every._choices(entry.captions)} == set(captions)
    kept = short._choices(entry.captions)
    assert {choice.caption for choice in kept} == {captions[0]}
    assert set(kept) <= set(every._choices(entry.captions))
    assert every.model_dump(mode="json").keys() == short.model_dump(mode="json").keys() - {"max_words"}
