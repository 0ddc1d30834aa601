"""Scoring rules: how the embeddings of an image and a text in CLIP's own space are compared.

The rule alone can change a teacher's accuracy by thirty points. Every model is therefore scored under each rule, in the
same reference spaces, next to the teacher under the same rule.

    clip       cos(x, t)                    CLIP's own; a whitened student loses nothing
    centered   cos(x − μ_image, t − μ_text)
    whitened   cos(W_image(x − μ_image), W_text(t − μ_text)), W = Σ^-1/2
    soft       the same with W = Σ^-1/4, half way between the two above

Each modality has its own mean and matrix; ZCA's symmetric root keeps their axes comparable. A rule that is not a
cosine, such as a correction for hubs, maps the unit vectors of images and texts together (`factors`) to vectors whose
dot product is the score.
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
    """How images and texts are scored."""

    method: Method | None = None
    """Method of the target space to which embeddings are transformed; None: no transform."""
    factors: Callable[[Rows, Rows], tuple[Rows, Rows]] | None = None
    """Maps unit vectors of images and texts to vectors whose dot product is the score; None: the cosine."""

    @property
    def uses_covariance(self) -> bool:
        """Whether the transform depends on the covariance of train, and therefore on the number of its rows."""
        return self.method not in (None, "center")


RULES: dict[str, ScoringRule] = {
    "clip": ScoringRule(),
    "centered": ScoringRule("center"),
    "whitened": ScoringRule("zca"),
    "soft": ScoringRule("soft-zca"),
}
COVARIANCE_RULES = tuple(name for name, rule in RULES.items() if rule.uses_covariance)
_COSINE = ScoringRule()
"""For a target space without a rule: that of a student, or of an audit."""

ReferenceSpaces: TypeAlias = Mapping[str, TargetSpace]
"""One space per rule, fitted once per project, so that all arms are scored in the same spaces."""


class EnsembleSpaces(dict[str, TargetSpace]):
    """Reference spaces of an ensemble and of each member; scores are computed in the members' and averaged."""

    def __init__(self, joint: ReferenceSpaces, members: Sequence[ReferenceSpaces], teacher: Mapping[str, Any]) -> None:
        super().__init__(joint)
        self.members = tuple(members)
        self.widths = widths(teacher)
        self.readers = tuple(bool(each.get("context_length", 1)) for each in teacher[ENSEMBLE])

    def blocks(self, rows: Float[np.ndarray, "n d"]) -> list[tuple[ReferenceSpaces, Float[np.ndarray, "n k"]]]:
        """Return, for each member with a text tower, its spaces and its part of an ensemble's rows."""
        parts = np.split(rows, np.cumsum(self.widths)[:-1], axis=1)
        each = zip(self.members, parts, self.readers, strict=True)
        return [(spaces, part) for spaces, part, reads in each if reads]


def clip_spaces(teacher: Mapping[str, Any]) -> ReferenceSpaces:
    """Return the spaces of the rule `clip` for an ensemble; a single teacher needs none."""
    return EnsembleSpaces({}, [{} for _ in teacher[ENSEMBLE]], teacher) if ENSEMBLE in teacher else {}


def _averaged(vectors: Sequence[Float[np.ndarray, "n k"]]) -> Float[np.ndarray, "n d"]:
    """Concatenate unit vectors of several teachers, so that dot products are averaged."""
    rows: Rows = np.concatenate(vectors, axis=1) / np.float32(np.sqrt(len(vectors)))
    return rows


def reference_spaces(moments: CoMoments, floor: float) -> dict[str, TargetSpace]:
    """Fit the spaces of the rules that have a transform.

    Eigenvalues below `floor` times their mean are raised to it; otherwise a direction without variance would have the
    same weight as every other.
    """
    return {
        name: fit_space(name, TargetParams(method=rule.method, floor=floor, pre_norm=moments.pre_norm), moments)
        for name, rule in RULES.items()
        if rule.method is not None
    }


def image_vectors(rule: str, image: Float[np.ndarray, "n d"], spaces: ReferenceSpaces) -> Float[np.ndarray, "n d"]:
    """Return unit vectors of images under a rule; for an ensemble, those of members with a text tower, concatenated."""
    if isinstance(spaces, EnsembleSpaces):
        return _averaged([image_vectors(rule, block, own) for own, block in spaces.blocks(image)])
    space = _space(rule, spaces)
    return l2_normalize(image if space is None else space.to_target(image, "image"))


def text_vectors(rule: str, text: Float[np.ndarray, "m d"], spaces: ReferenceSpaces) -> Float[np.ndarray, "m d"]:
    """Return unit vectors of texts under a rule; for an ensemble, those of members with a text tower, concatenated."""
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

    The order is open_clip's, after the rule's transform. For an ensemble, the classes of each member.
    """
    if isinstance(spaces, EnsembleSpaces):
        own = [(each, replace(prompts, embedding=part)) for each, part in spaces.blocks(np.asarray(prompts.embedding))]
        return _averaged([prompt_vectors(rule, part, each) for each, part in own])
    each = text_vectors(rule, np.asarray(prompts.embedding), spaces)
    return l2_normalize(each.reshape(len(prompts.classes), -1, each.shape[1]).mean(axis=1))


def predict_classes(image: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"]) -> Int[np.ndarray, " n"]:
    """Return for each image vector the class vector with the largest dot product; the first one on ties."""
    predicted: Int[np.ndarray, " n"] = np.argmax(image @ classes.T, axis=1)
    return predicted


def first_template(prompts: PromptShard) -> PromptShard:
    """Return the prompts of the first template."""
    first = np.asarray(prompts.embedding)[:: len(prompts.templates)]
    return PromptShard(first, prompts.classes, prompts.templates[:1])


def select_templates(prompts: PromptShard, templates: Sequence[str]) -> PromptShard:
    """Return the prompts of some of the templates, in their order."""
    columns = [prompts.templates.index(template) for template in templates]
    each = np.asarray(prompts.embedding).reshape(len(prompts.classes), len(prompts.templates), -1)
    return PromptShard(each[:, columns].reshape(-1, each.shape[2]), prompts.classes, tuple(templates))


def available_rules(rules: Sequence[str], moments: CoMoments | None) -> list[str]:
    """Return the rules that can be scored; without text moments, only those without a transform."""
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
"""Standard errors above chance from which an accuracy is significant: exceeded by chance once in 700 sets."""


def retention(student: float, ceiling: float) -> float | None:
    """Return student/ceiling, or None if the ceiling is zero."""
    return student / ceiling if ceiling > 0 else None


def is_above_chance(accuracy: float, chance_level: float, count: int) -> bool:
    """Return whether an accuracy over `count` images is above chance by three of its standard errors."""
    return accuracy - chance_level > CHANCE_ERRORS * sqrt(chance_level * (1 - chance_level) / count)


def kept_above_chance(student: float, ceiling: float, chance_level: float, count: int) -> float | None:
    """Return (student − chance)/(ceiling − chance), or None if the ceiling is not significantly above chance."""
    if not is_above_chance(ceiling, chance_level, count):
        return None
    return (student - chance_level) / (ceiling - chance_level)
