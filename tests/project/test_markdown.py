"""Names are text in Markdown and in the YAML before it."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.project.terminal import escape_markdown, printable, yaml_string


@given(st.text())
def test_a_yaml_reader_gets_the_name_back(text: str) -> None:
    assert yaml.safe_load(f"name: {yaml_string(text)}\nother: 1") == {"name": printable(text), "other": 1}


@given(st.text(st.sampled_from(list("*_`[]()<>#|~!&$\\{}ab \n"))))
def test_nothing_special_is_left_unescaped_and_nothing_is_lost(text: str) -> None:
    shown = escape_markdown(text)
    plain, at = [], 0
    while at < len(shown):
        at += shown[at] == "\\"
        plain.append(shown[at])
        at += 1
    assert "".join(plain) == printable(text)
    bare = [c for i, c in enumerate(shown) if c in "*_`[]<>|" and (i == 0 or shown[i - 1] != "\\")]
    assert bare == []


@pytest.mark.parametrize("text", ["ViT-B-16", "resnet18", "local-dir:models/mine", "a b"])
def test_ordinary_names_stay_as_they_are(text: str) -> None:
    assert escape_markdown(text) == text
