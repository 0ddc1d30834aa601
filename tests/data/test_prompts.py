"""Prompts are the published ones, class by class."""

from __future__ import annotations

import pytest

from pipeline.data.prompts import TEMPLATES, render_prompts, resolve_templates
from pipeline.project.errors import UsageError


def test_openai80_and_openai7_are_open_clips() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    assert render_prompts(["cat"], TEMPLATES["openai80"]) == [template("cat") for template in OPENAI_IMAGENET_TEMPLATES]
    assert render_prompts(["cat"], TEMPLATES["openai7"]) == [template("cat") for template in SIMPLE_IMAGENET_TEMPLATES]


def test_cifar10_has_the_eighteen_templates_with_a_and_the() -> None:
    prompts = render_prompts(["frog"], TEMPLATES["cifar10"])
    assert len(set(prompts)) == 18
    assert "a photo of a frog." in prompts
    assert "a photo of the small frog." in prompts


def test_prompts_go_class_by_class() -> None:
    assert render_prompts(["a", "b"], ["x {c}", "{c} y"]) == ["x a", "a y", "x b", "b y"]


def test_braces_in_a_class_name_are_left_alone() -> None:
    assert render_prompts(["{0} {c}"], ["a {c}."]) == ["a {0} {c}."]


def test_an_unknown_template_set_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        resolve_templates("cifar")


def test_own_templates_are_checked() -> None:
    assert resolve_templates(["a {c}"]) == ("a {c}",)
    for wrong in (["a photo"], []):
        with pytest.raises(UsageError, match=r"expected \{c\}"):
            resolve_templates(wrong)
