"""Scoring rules: how an image and a text are compared once both are in CLIP's own space.

The rule alone can move a teacher by thirty points, so every model is scored by each of them, in the
same reference spaces, and stands beside the teacher under the same rule.

    clip       cos(x, t)                    CLIP's own; costs a whitened student nothing
    centered   cos(x − μ_image, t − μ_text)
    whitened   cos(W_image(x − μ_image), W_text(t − μ_text)), W = Σ^-1/2
    soft       the same with W = Σ^-1/4, half way between the two above

Each modality takes its own mean and matrix; ZCA's symmetric root keeps their axes comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from cache.shard import PromptShard
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.methods import Method, TargetParams
from pipeline.whitening.spaces import TargetSpace, fit_space

Rule = Literal["clip", "centered", "whitened", "soft"]
RULES: tuple[Rule, ...] = ("clip", "centered", "whitened", "soft")

Rows: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]
ReferenceSpaces: TypeAlias = Mapping[str, TargetSpace]
"""One space per rule, fitted once per project, so that no arm is measured with its own ruler."""


def reference_spaces(moments: CoMoments, floor: float) -> dict[str, TargetSpace]:
    """Fit the spaces that the rules other than `clip` score in.

    Eigenvalues below `floor` times their mean are raised to it: a direction that holds no variance
    would otherwise weigh as much as all of CLIP's meaning.
    """
    methods: dict[str, Method] = {"centered": "center", "whitened": "zca", "soft": "soft-zca"}
    return {
        rule: fit_space(rule, TargetParams(method=method, floor=floor, pre_norm=moments.pre_norm), moments)
        for rule, method in methods.items()
    }


def l2_normalize(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Scale each row to length one; a row of zeros stays zero and scores zero against everything."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Rows = (rows / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)
    return scaled


def image_vectors(rule: str, image: Float[np.ndarray, "n d"], spaces: ReferenceSpaces) -> Float[np.ndarray, "n d"]:
    """Return unit vectors of images under a rule."""
    return l2_normalize(image if rule == "clip" else _space(rule, spaces).to_target(image, "image"))


def text_vectors(rule: str, text: Float[np.ndarray, "m d"], spaces: ReferenceSpaces) -> Float[np.ndarray, "m d"]:
    """Return unit vectors of texts under a rule."""
    return l2_normalize(text if rule == "clip" else _space(rule, spaces).to_target(text, "text"))


def score_vectors(
    rule: str, image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "m d"], spaces: ReferenceSpaces
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Return unit vectors of images and texts whose dot product is the score under a rule."""
    return image_vectors(rule, image, spaces), text_vectors(rule, text, spaces)


def prompt_vectors(rule: str, prompts: PromptShard, spaces: ReferenceSpaces) -> Float[np.ndarray, "c d"]:
    """Return one unit vector per class: transform each prompt, normalise, average, normalise.

    The order is open_clip's, with the rule's transform in front of it.
    """
    each = text_vectors(rule, np.asarray(prompts.embedding), spaces)
    return l2_normalize(each.reshape(len(prompts.classes), -1, each.shape[1]).mean(axis=1))


def predict_classes(image: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"]) -> Int[np.ndarray, " n"]:
    """Return for each image vector the class whose vector has the largest dot product; ties take the first."""
    predicted: Int[np.ndarray, " n"] = np.argmax(image @ classes.T, axis=1)
    return predicted


def first_template(prompts: PromptShard) -> PromptShard:
    """Return the prompts of the first template alone."""
    first = np.asarray(prompts.embedding)[:: len(prompts.templates)]
    return PromptShard(first, prompts.classes, prompts.templates[:1])


def select_templates(prompts: PromptShard, templates: Sequence[str]) -> PromptShard:
    """Return the prompts of some of the templates, in their order."""
    chosen = [prompts.templates.index(template) for template in templates]
    each = np.asarray(prompts.embedding).reshape(len(prompts.classes), len(prompts.templates), -1)
    return PromptShard(each[:, chosen].reshape(-1, each.shape[2]), prompts.classes, tuple(templates))


def available_rules(rules: Sequence[str], moments: CoMoments | None) -> list[str]:
    """Return the rules that can be scored: without paired text moments, only CLIP's own."""
    return [rule for rule in rules if rule == "clip" or (moments is not None and moments.text is not None)]


def _space(rule: str, spaces: ReferenceSpaces) -> TargetSpace:
    if rule not in spaces:
        raise UsageError(f"evaluate.rules: no scoring rule '{rule}'{did_you_mean(rule, RULES)}")
    return spaces[rule]
