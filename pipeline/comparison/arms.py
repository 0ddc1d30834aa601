"""The arms of a comparison: what each is taught, and the controls that must not win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from cache.fingerprint import fingerprint
from cache.normalization import l2_normalize
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.layout import require_name
from pipeline.project.params import ParamsSection
from pipeline.project.project import Project
from pipeline.students.inputs.targets import Targets
from pipeline.students.losses.objective import LossParams
from pipeline.whitening.comoments import Moments
from pipeline.whitening.methods import Method
from pipeline.whitening.moments_file import StoredMoments
from pipeline.whitening.spaces import TargetParams, TargetSpace, fit_space
from pipeline.whitening.spectrum import eigendecompose, floor_eigenvalues
from pipeline.whitening.transforms import AffineTransform, make_transform

CONTROL_SEED = 20


class ComparisonArmParams(ParamsSection):
    """A section of `compare.arms`: what sets an arm apart from the others."""

    target: TargetParams = TargetParams()
    loss: LossParams | None = None
    """Of this arm alone; none given takes `compare.loss`."""
    control: Literal["permuted-spectrum", "shuffled-pairs", "permuted-words", "random-words"] | None = None
    """Whitening along the right axes by the wrong amounts; every image with another one's target; the words of
    another class; or words that are orthogonal and mean nothing."""


SHUFFLED_PAIRS = ComparisonArmParams(target=TargetParams(method="scale"), control="shuffled-pairs")
CONTROLS = ("placebo", "shuffled")


@dataclass(frozen=True)
class ComparisonArm:
    """An arm with its target space fitted."""

    name: str
    params: ComparisonArmParams
    loss: LossParams
    space: TargetSpace

    def facts(self) -> dict[str, Any]:
        """Return what sets its runs apart from those of other arms."""
        return {
            "space": self.space.fingerprint,
            "loss": self.loss.model_dump(mode="json"),
            "control": self.params.control,
        }

    @property
    def fingerprint(self) -> str:
        """Return twelve hex digits of what decides its runs."""
        return fingerprint(self.facts())

    def apply_control(self, targets: Targets) -> Targets:
        """Return the targets as this arm sees them: those of other images, or other words for the classes."""
        if self.params.control in WORD_CONTROLS:
            return WORD_CONTROLS[self.params.control](targets)
        if self.params.control != "shuffled-pairs":
            return targets
        order = np.random.default_rng(CONTROL_SEED).permutation(targets.image.shape[1])
        return replace(targets, image=targets.image[:, order])


def permute_words(targets: Targets) -> Targets:
    """Give each class the words of another one, no class its own; the teacher's image embeddings stay.

    The words stand to each other as they did: whatever a gain owes to that, and not to what they mean, stays.
    """
    words = words_of(targets)
    order = np.random.default_rng(CONTROL_SEED).permutation(len(words))
    moved = np.empty(len(words), np.int64)
    moved[order] = np.roll(order, 1)
    return _with_words(targets, words[moved], None if targets.domains is None else targets.domains[moved])


def randomize_words(targets: Targets) -> Targets:
    """Give each class a random vector instead of its words, all of them orthogonal; domains keep their offsets."""
    words = words_of(targets)
    count, dim = words.shape
    if count > dim:
        raise UsageError(f"compare: {count} classes have no {count} orthogonal vectors in {dim} dimensions")
    drawn, _ = np.linalg.qr(np.random.default_rng(CONTROL_SEED).standard_normal((dim, count)))
    random = drawn.T.astype(np.float32)
    if targets.domains is None:
        return _with_words(targets, random, None)
    near = random[:, None] + targets.domains - words[:, None]
    return _with_words(targets, random, l2_normalize(near.reshape(-1, near.shape[-1])).reshape(near.shape))


WORD_CONTROLS = {"permuted-words": permute_words, "random-words": randomize_words}


def words_of(targets: Targets) -> Float[np.ndarray, "c k"]:
    """Return the words for the classes; raises UsageError where there are none."""
    if targets.classes is None:
        raise UsageError("compare: a control of words needs a labelled train split, and losses over its classes")
    return targets.classes


def _with_words(
    targets: Targets, words: Float[np.ndarray, "c k"], domains: Float[np.ndarray, "c j k"] | None
) -> Targets:
    return replace(targets, classes=words, domains=domains, teacher_classes=targets.classes)


def open_arms(
    names: Sequence[str],
    named: dict[str, ComparisonArmParams],
    loss: LossParams,
    project: Project,
    moments: StoredMoments,
) -> dict[str, ComparisonArm]:
    """Fit the target space of each arm: one eigendecomposition each.

    Raises:
        UsageError: a name that is no arm, no target space of the params and no method.
    """
    found = {require_name(name, "compare.targets"): arm_params(name, named, project) for name in names}
    return {name: ComparisonArm(name, p, p.loss or loss, arm_space(name, p, moments)) for name, p in found.items()}


def in_clip_space(params: ComparisonArmParams) -> ComparisonArmParams:
    """Return an arm in the target space that it names, else in CLIP's own: domains have no captions to fit one to."""
    if "target" in params.model_fields_set:
        return params
    return params.model_copy(update={"target": TargetParams(method="raw")})


def arm_params(name: str, named: dict[str, ComparisonArmParams], project: Project) -> ComparisonArmParams:
    """Look an arm up: in `compare.arms`, in `whiten`, among the controls, among the methods."""
    if name in named:
        return named[name]
    if project.get(f"whiten.{name}", False):
        return ComparisonArmParams(target=project.section(f"whiten.{name}", TargetParams))
    if name == "placebo":
        return arm_params("zca", named, project).model_copy(update={"control": "permuted-spectrum"})
    if name == "shuffled":
        return SHUFFLED_PAIRS
    methods: tuple[Method, ...] = get_args(Method)
    for method in methods:
        if method == name:
            return ComparisonArmParams(target=TargetParams(method=method))
    known = [*named, *CONTROLS, *methods]
    raise UsageError(
        f"compare: no arm '{name}': not in compare.arms or whiten, and no method{did_you_mean(name, known)}"
    )


def arm_space(name: str, params: ComparisonArmParams, moments: StoredMoments) -> TargetSpace:
    """Fit the space of an arm; raises UsageError where the moments do not allow it."""
    if params.target.teacher is not None:
        raise UsageError(
            f"compare: arm '{name}' is of teacher {params.target.teacher}: a comparison is of the first teacher's "
            "spaces alone. Use `distill` with several seeds for the others"
        )
    measured = moments.for_norm(params.target.pre_norm)
    space = fit_space(name, params.target, measured, moments.teacher, moments.embeddings_digest)
    if params.control != "permuted-spectrum":
        return space
    sides = [None if m is None else permuted_whitening(params.target, m) for m in (measured.image, measured.text)]
    return replace(space, image=sides[0] or space.image, text=sides[1])  # the control stands in the arm's facts


def permuted_whitening(params: TargetParams, moments: Moments) -> AffineTransform:
    """Fit W = c V Λ'_π^−½ Vᵀ: whitening's axes and its condition number, each axis scaled by another one's share.

    Whatever a gain over `scale` owes to the numbers alone, the placebo has too. c makes the mean variance 1,
    as whitening's is: without it the largest variances over the smallest divisors would only be a change of scale.
    """
    found = eigendecompose(moments.covariance)
    values, count = floor_eigenvalues(found.values, params.floor, params.eps)
    order = np.random.default_rng(CONTROL_SEED).permutation(len(values))
    root = np.sqrt(values[order])
    c = np.sqrt(len(values) / np.sum(found.values / root**2))
    return make_transform(
        moments, moments.mean, found.with_eigenvalues(c / root), found.with_eigenvalues(root / c), count
    )
