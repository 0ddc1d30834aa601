"""Parameters are text, numbers, truth values, lists and mappings; anything else is one line."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.project.errors import UsageError
from pipeline.project.input_files import MAX_NODES, is_number, read_yaml
from tests import ROOT

PLAIN = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff")
NUMBERS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(PLAIN),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(PLAIN), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_in_json_is_read_as_it_was(value: object) -> None:
    import json

    assert read_yaml(json.dumps(value, ensure_ascii=False), "x") == value


@pytest.mark.parametrize("text", ["010", "0o10", "0x1f", "1:30", "1:30.5", "2024-01-01", "no", "on", "5" * 5000])
def test_what_only_looks_like_a_number_a_date_or_a_truth_value_is_text(text: str) -> None:
    assert read_yaml(text, "x") == text
    assert not is_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1e-05", 1e-5), ("-.5", -0.5), ("1_000", 1000), ("2.", 2.0), ("0", 0), (".inf", math.inf)],
)
def test_numbers_are_numbers(text: str, value: float) -> None:
    assert read_yaml(text, "x") == value
    assert is_number(text) == (value - value == 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!int x", "a tag"),
        ("a: !!bool x", "a tag"),
        ("a: !!timestamp 2001-99-99", "a tag"),
        ("a: !!python/object/apply:os.system [id]", "a tag"),
        ('a: "\\0"', "NUL"),
        ('a: "\\ud800"', "surrogate"),
        ("a: &a [*a]", "what it stands in"),
        ("a: *b", "undefined alias"),
        ("a: 1\na: 2", "'a' stands twice"),
        ("? [1]\n: 2", "a key that is a list"),
        ("a: [", "not YAML"),
        ("a: 1\n--- 2", "single document"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("{a: " * 3000 + "}" * 3000, "nested too deeply"),
    ],
)
def test_what_is_no_value_is_one_line_that_says_so(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_yaml(text, "params.yaml")
    assert str(caught.value).startswith("params.yaml: ")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bomb", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_would_unfold_to_millions_are_refused_at_once(bomb: str) -> None:
    levels = ["a0: &a0 {x: 1}"]
    levels += [f"a{i}: &a{i} " + bomb.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 12)]
    with pytest.raises(UsageError, match=f"more than {MAX_NODES} values"):
        read_yaml("\n".join(levels), "x")


def test_aliases_that_only_save_typing_are_welcome() -> None:
    assert read_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: *a", "x") == {
        "a": {"b": 1, "c": 2},
        "d": {"b": 1, "c": 3},
        "e": {"b": 1, "c": 2},
    }


def test_the_presets_are_read_as_before() -> None:
    for path in [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        for name, part in yaml.safe_load(text).items():
            if "e-" not in yaml.safe_dump(part):  # PyYAML itself takes 1e-3 for text
                assert read_yaml(text, str(path))[name] == part
