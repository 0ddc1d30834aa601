"""Prompts: class names inserted into templates.

The template sets are those published with CLIP (Radford et al., 2021, prompts for CIFAR-10 and ImageNet).
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.project.errors import UsageError, did_you_mean

_CIFAR10 = """
a photo of {a} {c}.
a blurry photo of {a} {c}.
a black and white photo of {a} {c}.
a low contrast photo of {a} {c}.
a high contrast photo of {a} {c}.
a bad photo of {a} {c}.
a good photo of {a} {c}.
a photo of {a} small {c}.
a photo of {a} big {c}.
"""

_OPENAI80 = """
a bad photo of a {c}.
a photo of many {c}.
a sculpture of a {c}.
a photo of the hard to see {c}.
a low resolution photo of the {c}.
a rendering of a {c}.
graffiti of a {c}.
a bad photo of the {c}.
a cropped photo of the {c}.
a tattoo of a {c}.
the embroidered {c}.
a photo of a hard to see {c}.
a bright photo of a {c}.
a photo of a clean {c}.
a photo of a dirty {c}.
a dark photo of the {c}.
a drawing of a {c}.
a photo of my {c}.
the plastic {c}.
a photo of the cool {c}.
a close-up photo of a {c}.
a black and white photo of the {c}.
a painting of the {c}.
a painting of a {c}.
a pixelated photo of the {c}.
a sculpture of the {c}.
a bright photo of the {c}.
a cropped photo of a {c}.
a plastic {c}.
a photo of the dirty {c}.
a jpeg corrupted photo of a {c}.
a blurry photo of the {c}.
a photo of the {c}.
a good photo of the {c}.
a rendering of the {c}.
a {c} in a video game.
a photo of one {c}.
a doodle of a {c}.
a close-up photo of the {c}.
a photo of a {c}.
the origami {c}.
the {c} in a video game.
a sketch of a {c}.
a doodle of the {c}.
a origami {c}.
a low resolution photo of a {c}.
the toy {c}.
a rendition of the {c}.
a photo of the clean {c}.
a photo of a large {c}.
a rendition of a {c}.
a photo of a nice {c}.
a photo of a weird {c}.
a blurry photo of a {c}.
a cartoon {c}.
art of a {c}.
a sketch of the {c}.
a embroidered {c}.
a pixelated photo of a {c}.
itap of the {c}.
a jpeg corrupted photo of the {c}.
a good photo of a {c}.
a plushie {c}.
a photo of the nice {c}.
a photo of the small {c}.
a photo of the weird {c}.
the cartoon {c}.
art of the {c}.
a drawing of the {c}.
a photo of the large {c}.
a black and white photo of a {c}.
the plushie {c}.
a dark photo of a {c}.
itap of a {c}.
graffiti of the {c}.
a toy {c}.
itap of my {c}.
a photo of a cool {c}.
a photo of a small {c}.
a tattoo of the {c}.
"""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "bare": ("{c}",),
    "simple": ("a photo of a {c}.",),
    "cifar10": tuple(line.replace("{a}", a) for a in ("a", "the") for line in _CIFAR10.strip().splitlines()),
    "openai7": (
        "itap of a {c}.",
        "a bad photo of the {c}.",
        "a origami {c}.",
        "a photo of the large {c}.",
        "a {c} in a video game.",
        "art of the {c}.",
        "a photo of the small {c}.",
    ),
    "openai80": tuple(_OPENAI80.strip().splitlines()),
}
"""Template sets by name."""


def resolve_templates(templates: str | Sequence[str], key: str = "templates") -> tuple[str, ...]:
    """Return a template set by name, or a checked list of custom templates.

    Raises:
        UsageError: no set of that name, an empty list, or a template without {c}.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            names = ", ".join(TEMPLATES)
            raise UsageError(
                f"params: '{key}': no templates '{templates}'{did_you_mean(templates, TEMPLATES)} "
                f'Known: {names}, or a list such as ["a photo of a {{c}}."].'
            )
        return TEMPLATES[templates]
    for template in templates or [""]:
        if "{c}" not in template:
            raise UsageError(f"params: '{key}': expected {{c}} in each template, found {template!r}")
    return tuple(templates)


def render_prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every class in every template, class by class."""
    return [template.replace("{c}", name) for name in classes for template in templates]
