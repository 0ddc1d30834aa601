"""Scoring rules: how an image and a text are compared once both are in CLIP's own space.

The rule alone can move a teacher by thirty points, so every model is scored by each of them, in the
same reference spaces, and stands beside the teacher under the same rule.

    clip       cos(x, t)                    CLIP's own; costs a whitened student nothing
    centered   cos(x − μ_image, t − μ_text)
    whitened   cos(W_image(x − μ_image), W_text(t − μ_text)), W = Σ^-1/2
    soft       the same with W = Σ^-1/4, half way between the two above

Each modality takes its own mean and matrix; ZCA's symmetric root keeps their axes comparable. A rule that is no
cosine, such as one that corrects for hubs, changes the unit vectors of images and texts together (`factors`), so
that the dot product of what it returns is the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from cache.normalization import l2_normalize
from cache.shard import PromptShard
from cache.teachers import ENSEMBLE, widths
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.methods import Method, TargetParams
from pipeline.whitening.spaces import TargetSpace, fit_space

Rule = Literal["clip", "centered", "whitened", "soft"]
Rows: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class ScoringRule:
    """How images and texts are scored against each other."""

    method: Method | None = None
    """Of the target space that embeddings are transformed to; None takes them as they are."""
    factors: Callable[[Rows, Rows], tuple[Rows, Rows]] | None = None
    """From unit vectors of images and texts to vectors whose dot product is the score; None: the cosine."""

    @property
    def uses_covariance(self) -> bool:
        """Whether the transform depends on the covariance of train, and so on how many rows it was fitted to."""
        return self.method not in (None, "center")


RULES: dict[str, ScoringRule] = {
    "clip": ScoringRule(),
    "centered": ScoringRule("center"),
    "whitened": ScoringRule("zca"),
    "soft": ScoringRule("soft-zca"),
}
COVARIANCE_RULES = tuple(name for name, rule in RULES.items() if rule.uses_covariance)
_COSINE = ScoringRule()
"""In a target space that is no rule's: of a student's own targets, of an audit."""

ReferenceSpaces: TypeAlias = Mapping[str, TargetSpace]
"""One space per rule, fitted once per project, so that no arm is measured with its own ruler."""


class EnsembleSpaces(dict[str, TargetSpace]):
    """The reference spaces of an ensemble, and those of each member, in which its scores are taken and averaged."""

    def __init__(self, joint: ReferenceSpaces, members: Sequence[ReferenceSpaces], teacher: Mapping[str, Any]) -> None:
        super().__init__(joint)
        self.members = tuple(members)
        self.widths = widths(teacher)
        self.readers = tuple(bool(each.get("context_length", 1)) for each in teacher[ENSEMBLE])

    def blocks(self, rows: Float[np.ndarray, "n d"]) -> list[tuple[ReferenceSpaces, Float[np.ndarray, "n k"]]]:
        """Return each member that reads, by its spaces, with its part of an ensemble's rows."""
        parts = np.split(rows, np.cumsum(self.widths)[:-1], axis=1)
        each = zip(self.members, parts, self.readers, strict=True)
        return [(spaces, part) for spaces, part, reads in each if reads]


def clip_spaces(teacher: Mapping[str, Any]) -> ReferenceSpaces:
    """Return what the rule `clip` scores an ensemble by; a single teacher needs no space for it."""
    return EnsembleSpaces({}, [{} for _ in teacher[ENSEMBLE]], teacher) if ENSEMBLE in teacher else {}


def _averaged(vectors: Sequence[Float[np.ndarray, "n k"]]) -> Float[np.ndarray, "n d"]:
    """Lay unit vectors of several teachers side by side, so that dot products are the mean of theirs."""
    rows: Rows = np.concatenate(vectors, axis=1) / np.float32(np.sqrt(len(vectors)))
    return rows


def reference_spaces(moments: CoMoments, floor: float) -> dict[str, TargetSpace]:
    """Fit the target spaces that rules with a transform score in.

    Eigenvalues below `floor` times their mean are raised to it: a direction that holds no variance
    would otherwise weigh as much as all of CLIP's meaning.
    """
    return {
        name: fit_space(name, TargetParams(method=rule.method, floor=floor, pre_norm=moments.pre_norm), moments)
        for name, rule in RULES.items()
        if rule.method is not None
    }


def image_vectors(rule: str, image: Float[np.ndarray, "n d"], spaces: ReferenceSpaces) -> Float[np.ndarray, "n d"]:
    """Return unit vectors of images under a rule; of an ensemble those of its members that read, side by side."""
    if isinstance(spaces, EnsembleSpaces):
        return _averaged([image_vectors(rule, block, own) for own, block in spaces.blocks(image)])
    space = _space(rule, spaces)
    return l2_normalize(image if space is None else space.to_target(image, "image"))


def text_vectors(rule: str, text: Float[np.ndarray, "m d"], spaces: ReferenceSpaces) -> Float[np.ndarray, "m d"]:
    """Return unit vectors of texts under a rule; of an ensemble those of its members that read, side by side."""
    if isinstance(spaces, EnsembleSpaces):
        return _averaged([text_vectors(rule, block, own) for own, block in spaces.blocks(text)])
    space = _space(rule, spaces)
    return l2_normalize(text if space is None else space.to_target(text, "text"))


def score_vectors(
    rule: str, image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "m d"], spaces: ReferenceSpaces
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Return vectors of images and texts whose dot product is the score under a rule."""
    return score_factors(rule, image_vectors(rule, image, spaces), text_vectors(rule, text, spaces))


def score_factors(
    rule: str, image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "m k"]]:
    """Return vectors whose dot product is the score, from a rule's unit vectors of images and of texts or classes."""
    factors = _rule(rule).factors
    return (image, text) if factors is None else factors(image, text)


def prompt_vectors(rule: str, prompts: PromptShard, spaces: ReferenceSpaces) -> Float[np.ndarray, "c d"]:
    """Return one unit vector per class: transform each prompt, normalize, average, normalize.

    The order is open_clip's, with the rule's transform in front of it. Of an ensemble, the classes of each member.
    """
    if isinstance(spaces, EnsembleSpaces):
        own = [(each, replace(prompts, embedding=part)) for each, part in spaces.blocks(np.asarray(prompts.embedding))]
        return _averaged([prompt_vectors(rule, part, each) for each, part in own])
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
    """Return the rules that can be scored: without paired text moments, those that need no transform."""
    has_text = moments is not None and moments.text is not None
    return [rule for rule in rules if has_text or _rule(rule).method is None]


def _rule(name: str) -> ScoringRule:
    return RULES.get(name, _COSINE)


def _space(rule: str, spaces: ReferenceSpaces) -> TargetSpace | None:
    if rule in spaces:
        return spaces[rule]
    if rule not in RULES or RULES[rule].method is not None:
        raise UsageError(f"evaluate.rules: no scoring rule '{rule}'{did_you_mean(rule, list(RULES))}")
    return None


CHANCE_ERRORS = 3.0
"""Standard errors of guessing above which an accuracy is no luck: once in 700 sets it would be."""


def retention(student: float, ceiling: float) -> float | None:
    """Return student/ceiling, or None where the ceiling is zero."""
    return student / ceiling if ceiling > 0 else None


def is_above_chance(accuracy: float, chance_level: float, count: int) -> bool:
    """Return whether an accuracy over so many images is more than guessing gives: by three of its standard errors."""
    return accuracy - chance_level > CHANCE_ERRORS * sqrt(chance_level * (1 - chance_level) / count)


def kept_above_chance(student: float, ceiling: float, chance_level: float, count: int) -> float | None:
    """Return (student − chance)/(ceiling − chance), or None where the ceiling is not significantly above chance."""
    if not is_above_chance(ceiling, chance_level, count):
        return None
    return (student - chance_level) / (ceiling - chance_level)
