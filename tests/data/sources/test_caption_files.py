from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sources.caption_files import clean_captions, read_caption_table
from pipeline.project.errors import UsageError


def pairs(name: str, text: str, image: str = "image", caption: str = "caption") -> dict[str, list[str]]:
    return read_caption_table(Path(name), text.encode(), image, caption, "index.train.captions")


def test_captions_that_say_nothing_are_left_and_all_others_kept_whole() -> None:
    long = "a very long caption " * 500
    assert clean_captions(["", "  \n", " a cat ", "一只猫", "🐈", long]) == ("a cat", "一只猫", "🐈", long.strip())


@given(st.lists(st.text(st.characters(), max_size=20)))
def test_whatever_is_kept_can_be_written_as_utf8_and_stays_as_it_is(captions: list[str]) -> None:
    cleaned = clean_captions(captions)
    assert all(caption.encode() for caption in cleaned)
    assert clean_captions(cleaned) == cleaned


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'image,caption\na.jpg,"one, with a comma"\nb.jpg,two\na.jpg,three\n'),
        ("a.csv", '\ufeffimage,caption\r\na.jpg,"one, with a comma"\r\nb.jpg,two\r\na.jpg,three\r\n'),
        ("a.tsv", "caption\timage\none, with a comma\ta.jpg\ntwo\tb.jpg\nthree\ta.jpg\n"),
        ("results.csv", "image| n| caption\na.jpg| 0| one, with a comma\nb.jpg| 0| two\na.jpg| 1| three\n"),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": ["one, with a comma", "three"]}\n\n{"image": "b.jpg", "caption": "two"}\n',
        ),
    ],
)
def test_tables_of_every_common_kind_give_captions_by_image(name: str, text: str) -> None:
    assert pairs(name, text) == {"a.jpg": ["one, with a comma", "three"], "b.jpg": ["two"]}


def test_columns_have_the_names_one_gives_them() -> None:
    assert pairs("a.csv", "filepath\ttitle\na.jpg\tx\n", "filepath", "title") == {"a.jpg": ["x"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", r"a\.csv:1: no column 'image'"),
        ("a.csv", "image,captions\n", r"a\.csv:1: no column 'caption'; did you mean 'captions'\? \(found: image, c"),
        ("a.csv", "image,caption\na.jpg\n", r"a\.csv:2: expected 2 columns"),
        ("a.csv", "image,caption\na.jpg,x\nb.jpg,y,z\n", r"a\.csv:3: expected 2 columns"),
        ("a.csv", "image,caption\na.jpg," + "x" * 200_000, r"a\.csv:\d: not a table: field larger"),
        ("a.csv", "image,caption\n", r"a\.csv: no captions in it"),
        ("a.jsonl", "[]\n", r"a\.jsonl:1: expected \{\"image\""),
        ("a.jsonl", '{"image": "a", "caption": "x"}\n{"image": 1}\n', r"a\.jsonl:2: expected"),
        ("a.jsonl", '{"image": "a", "caption": [1]}\n', r"a\.jsonl:1: expected"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.jsonl", "", r"a\.jsonl: no captions in it"),
    ],
)
def test_a_table_of_another_shape_is_refused_with_its_line(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pairs(name, text)


def test_a_table_in_another_encoding_is_refused_with_the_place() -> None:
    with pytest.raises(UsageError, match=r"a\.csv: not UTF-8 at byte 16"):
        read_caption_table(Path("a.csv"), "image,caption\na,é".encode("latin-1"), "image", "caption", "k")


@given(st.text())
def test_no_text_gives_anything_but_pairs_or_a_refusal(text: str) -> None:
    for name in ("a.csv", "a.jsonl"):
        try:
            found = pairs(name, text)
        except UsageError as error:
            assert name in str(error)  # noqa: PT017  either outcome is right
        else:
            assert found
