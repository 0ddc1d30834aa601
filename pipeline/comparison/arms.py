"""Arms of a comparison: targets, losses, and negative controls."""

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
from pipeline.whitening.heads import fit_target_space
from pipeline.whitening.methods import Method
from pipeline.whitening.moments_file import StoredMoments
from pipeline.whitening.spaces import TargetParams, TargetSpace
from pipeline.whitening.spectrum import eigendecompose, floor_eigenvalues
from pipeline.whitening.transforms import AffineTransform, make_transform

CONTROL_SEED = 20


class ComparisonArmParams(ParamsSection):
    """A section of `compare.arms`: the parameters of one arm."""

    target: TargetParams = TargetParams()
    loss: LossParams | None = None
    """Losses of this arm; default: `compare.loss`."""
    control: Literal["permuted-spectrum", "shuffled-pairs", "permuted-words", "random-words"] | None = None
    """Negative control: permuted whitening divisors, targets of other images, permuted or random class vectors."""


SHUFFLED_PAIRS = ComparisonArmParams(target=TargetParams(method="scale"), control="shuffled-pairs")
CONTROLS = ("placebo", "shuffled")


@dataclass(frozen=True)
class ComparisonArm:
    """An arm with its fitted target space."""

    name: str
    params: ComparisonArmParams
    loss: LossParams
    space: TargetSpace

    def facts(self) -> dict[str, Any]:
        """Return the facts that distinguish its runs from those of other arms."""
        return {
            "space": self.space.fingerprint,
            "loss": self.loss.model_dump(mode="json"),
            "control": self.params.control,
        }

    @property
    def fingerprint(self) -> str:
        """Return twelve hex digits of the facts that decide its runs."""
        return fingerprint(self.facts())

    def apply_control(self, targets: Targets) -> Targets:
        """Return the targets of this arm: with a control, those of other images, or other class vectors."""
        if self.params.control in WORD_CONTROLS:
            return WORD_CONTROLS[self.params.control](targets)
        if self.params.control != "shuffled-pairs":
            return targets
        order = np.random.default_rng(CONTROL_SEED).permutation(targets.image.shape[1])
        return replace(targets, image=targets.image[:, order])


def permute_words(targets: Targets) -> Targets:
    """Give each class the vector of another class; the teacher's image embeddings are unchanged.

    The similarities between class vectors are kept: a gain that depends only on them, and not on their meaning,
    remains.
    """
    words = words_of(targets)
    order = np.random.default_rng(CONTROL_SEED).permutation(len(words))
    moved = np.empty(len(words), np.int64)
    moved[order] = np.roll(order, 1)
    return _with_words(targets, words[moved], None if targets.domains is None else targets.domains[moved])


def randomize_words(targets: Targets) -> Targets:
    """Give each class a random vector, all of them orthogonal; the offsets of domains are kept."""
    words = words_of(targets)
    count, dim = words.shape
    if count > dim:
        raise UsageError(f"compare: {count} classes have no {count} orthogonal vectors in {dim} dimensions")
    directions, _ = np.linalg.qr(np.random.default_rng(CONTROL_SEED).standard_normal((dim, count)))
    random = directions.T.astype(np.float32)
    if targets.domains is None:
        return _with_words(targets, random, None)
    near = random[:, None] + targets.domains - words[:, None]
    return _with_words(targets, random, l2_normalize(near.reshape(-1, near.shape[-1])).reshape(near.shape))


WORD_CONTROLS = {"permuted-words": permute_words, "random-words": randomize_words}


def words_of(targets: Targets) -> Float[np.ndarray, "c k"]:
    """Return the class vectors; raises UsageError if there are none."""
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
    """Fit the target space of each arm, with one eigendecomposition each.

    Raises:
        UsageError: a name that is neither an arm, a target space of the parameters, nor a method.
    """
    arms = {require_name(name, "compare.targets"): arm_params(name, named, project) for name in names}
    return {name: ComparisonArm(name, p, p.loss or loss, arm_space(name, p, moments)) for name, p in arms.items()}


def in_clip_space(params: ComparisonArmParams) -> ComparisonArmParams:
    """Return an arm in its named target space, or else in CLIP's own: domains have no captions to fit one."""
    if "target" in params.model_fields_set:
        return params
    return params.model_copy(update={"target": TargetParams(method="raw")})


def arm_params(name: str, named: dict[str, ComparisonArmParams], project: Project) -> ComparisonArmParams:
    """Look up an arm: in `compare.arms`, in `whiten`, among the controls, among the methods."""
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
    names_of_arms = [*named, *CONTROLS, *methods]
    raise UsageError(
        f"compare: no arm '{name}': not in compare.arms or whiten, and no method{did_you_mean(name, names_of_arms)}"
    )


def arm_space(name: str, params: ComparisonArmParams, moments: StoredMoments) -> TargetSpace:
    """Fit the space of an arm, of the teachers that it names; raises UsageError if the moments are not sufficient."""
    space = fit_target_space(name, params.target, moments)
    if params.control != "permuted-spectrum":
        return space
    if space.heads:
        raise UsageError(f"compare: arm '{name}': permuted-spectrum is a control of one space, and heads have several")
    measured = moments.named(*params.target.teachers).for_norm(params.target.pre_norm)
    sides = [None if m is None else permuted_whitening(params.target, m) for m in (measured.image, measured.text)]
    return replace(space, image=sides[0] or space.image, text=sides[1])  # the control is part of the arm's facts


def permuted_whitening(params: TargetParams, moments: Moments) -> AffineTransform:
    """Fit W = c V Λ'_π^−½ Vᵀ: the axes and condition number of whitening, with permuted scales of the axes.

    If a gain over `scale` comes only from these numbers, this placebo has it too. c normalizes the mean variance to 1,
    as in whitening; otherwise the combination of the largest variances with the smallest divisors would change the
    scale.
    """
    spectrum = eigendecompose(moments.covariance)
    values, count = floor_eigenvalues(spectrum.values, params.floor, params.eps)
    order = np.random.default_rng(CONTROL_SEED).permutation(len(values))
    root = np.sqrt(values[order])
    c = np.sqrt(len(values) / np.sum(spectrum.values / root**2))
    return make_transform(
        moments, moments.mean, spectrum.with_eigenvalues(c / root), spectrum.with_eigenvalues(root / c), count
    )
