"""Parameters of a comparison, and the data its trials share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from cache.fingerprint import fingerprint
from cache.teachers import members
from pipeline.comparison.arms import ComparisonArmParams, arm_params, in_clip_space, open_arms
from pipeline.comparison.evaluator import ArmEvaluator, make_eval_split
from pipeline.comparison.folds import Words, every_row, make_folds, refuse_leaks
from pipeline.comparison.leave_one_out import SOURCES, FoldEvaluator, LeaveOneOutRunner
from pipeline.comparison.runner import TeacherInputs, TrialRunner
from pipeline.evaluation.members import ensemble_spaces
from pipeline.evaluation.scoring_rules import Rule, reference_spaces
from pipeline.project.device import choose_device
from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection, renamed
from pipeline.project.project import Project
from pipeline.students.inputs.splits import open_split
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.training.params import TrainingParams
from pipeline.whitening.moments_file import StoredMoments, load_moments

SET_BY_COMPARE = {
    "epochs": "compare.epochs lists the budgets",
    "steps": "compare.epochs lists the budgets",
    "seed": "every arm is trained with seeds 1, 2, … (compare.seeds)",
    "num_validations": "every run is evaluated ten times an epoch",
    "zero_shot_set": "compare.zero_shot_set names the zero-shot set",
    "patience": "every arm is trained for its whole budget",
    "shuffle_buffer": "its many students share images that are decoded once, and are shuffled in full",
    "shard_groups": "its many students share images that are decoded once",
    "pixels": "its many students share images that are decoded once",
}
"""Keys of `training` that the comparison sets itself."""


class CompareParams(ParamsSection):
    """The `compare:` section, fixed before the first run."""

    student: str = "mobilenetv3"
    leave_out: tuple[str, ...] = ()
    """Domains of the labelled train split to hold out in turn; makes it a comparison over seeds and domains."""
    score: Literal["accuracy", "balanced"] = "accuracy"
    """Over domains: metric of the verdict on the held-out domain, and of tuning on the others' val."""
    words: Words = "prompts"
    """Over domains: class vectors from the teacher's prompts, or fitted to the sources' images."""
    targets: tuple[str, ...] = ("raw", "scale", "center", "phi-s", "soft-zca", "zca", "placebo", "shuffled")
    """Arms: of `compare.arms`, of `whiten`, the controls `placebo` and `shuffled`, or a method by name."""
    arms: dict[str, ComparisonArmParams] = Field(default_factory=dict)
    reference: str = "raw"
    """The arm with which the others are compared."""
    control: str | None = "scale"
    """The arm that a gain must also exceed."""
    epochs: tuple[int, ...] = (1, 8)
    """Budgets, each with its own schedule: epoch 1 of 8 differs from a run of 1."""
    learning_rates: tuple[float, ...] = renamed("rates", default=(1e-3, 3e-3, 9e-3, 2.7e-2, 8.1e-2))
    """Peak learning rates; extended if an arm's best rate is at an edge. A single one is fixed for every arm."""
    selection_metric: str = renamed("choose_by", default="recall clip")
    """Validation metric for tuning the rate: `recall <rule>` or `r2`."""
    seeds: int = Field(default=5, ge=2, le=1000)
    zero_shot_set: str | None = renamed("watch", default=None)
    """Zero-shot set of the headline; default: the first."""
    headline_rule: Rule = renamed("headline", default="clip")
    rules: tuple[Rule, ...] = get_args(Rule)
    floor: float = Field(default=0.01, ge=0)
    """Relative eigenvalue floor of the scoring spaces."""
    level_fraction: float = renamed("share", default=0.8, gt=0, le=1)
    """Level of the speed comparison, as a fraction of the way from chance to the reference's final accuracy."""
    margin: float = Field(default=0.01, gt=0)
    """Accuracies that differ by less are equivalent."""
    subset: int = Field(default=1000, ge=10)
    """Number of images evaluated every tenth of an epoch; all of them at the end."""
    student_params: StudentParams = StudentParams()
    training: TrainingParams = TrainingParams(weight_decay=0.0)
    """Without weight decay, which would have another effect in every target space."""
    loss: LossParams = LossParams(fd=1.0)

    @property
    def rate_selection_metric(self) -> str:
        """Return the metric for tuning the rate; over domains, the score on the sources' validation rows."""
        return f"{SOURCES} {self.score}" if self.leave_out else self.selection_metric

    @field_validator("training")
    @classmethod
    def _leave_out_what_compare_sets(cls, training: TrainingParams) -> TrainingParams:
        """Refuse keys of `training` that the comparison sets itself."""
        for key, reason in SET_BY_COMPARE.items():
            if getattr(training, key) != TrainingParams.model_fields[key].default:
                raise ValueError(f"leave out '{key}': {reason}")
        return training


@dataclass(frozen=True)
class ComparisonSetup:
    """Parameters of a comparison with the overrides of the command line, and its project."""

    params: CompareParams
    project: Project

    @property
    def zero_shot_set(self) -> str:
        """Return the zero-shot set of the headline; raises UsageError if there is none."""
        split = self.params.zero_shot_set or next(iter(self.project.zero_shot_splits), None)
        if split is None:
            raise UsageError("compare: no zero-shot set in index.splits: add one, such as cifar10, and embed it")
        return split

    def open(self) -> TrialRunner | LeaveOneOutRunner:
        """Open splits, pixels and arms; images are decoded the first time."""
        return self.open_folds() if self.params.leave_out else self.open_trials()

    def open_folds(self) -> LeaveOneOutRunner:
        """Open the labelled splits, and hold out each domain in turn.

        Raises:
            UsageError: an unknown arm, no such domain, or an image of a held-out domain among the others.
            CacheError: something is not embedded yet, damaged or stale.
        """
        params, layout, runtime = self.params, self.project.layout, self.project.runtime
        size = params.training.image_size
        rows = []
        for name in ("train", "val"):
            split = open_split(name, layout, runtime)
            views = params.training.max_views or split.store.views
            rows.append(every_row(split, split.pixels(size, views if name == "train" else 1, layout, runtime)))
        folds = make_folds(rows[0], rows[1], params.leave_out, params.words)
        refuse_leaks(rows, params.leave_out, size)
        arms = {name: in_clip_space(arm_params(name, params.arms, self.project)) for name in params.targets}
        return LeaveOneOutRunner(
            params.student,
            params.student_params,
            params.training,
            {name: (arm, arm.loss or params.loss) for name, arm in arms.items()},
            {name: FoldEvaluator(fold, size, runtime.batch, params.subset) for name, fold in folds.items()},
            choose_device(runtime.device),
        )

    def open_trials(self) -> TrialRunner:
        """Open the splits of a comparison over seeds.

        Raises:
            UsageError: an unknown arm or device.
            CacheError: something is not embedded yet, damaged or stale.
        """
        params = self.params
        moments = load_moments(self.project.layout.moments)
        first = self._open_inputs(moments, moments)
        arms = open_arms(params.targets, params.arms, params.loss, self.project, moments)
        inputs = {fingerprint(moments.teacher): first}
        for name, arm in arms.items():
            if (mark := fingerprint(arm.space.teacher)) not in inputs:
                self._require_reader(name, arm.space.teacher)
                inputs[mark] = self._open_inputs(moments, moments.of_teacher(arm.space.teacher))
        own = {name: inputs[fingerprint(arm.space.teacher)] for name, arm in arms.items()}
        return TrialRunner(
            params.student,
            params.student_params,
            params.training,
            arms,
            first,
            choose_device(self.project.runtime.device),
            {name: found for name, found in own.items() if found is not first},
        )

    def _require_reader(self, arm: str, teacher: Mapping[str, Any]) -> None:
        """Refuse an arm that nothing here could score: of a teacher without a text tower."""
        if not any(member.get("context_length", 1) for member in members(teacher)):
            raise UsageError(
                f"compare: arm '{arm}' is of {teacher['model']}, which reads no text: zero-shot accuracy and retrieval "
                "need one that does. Take an ensemble, or heads, with such a teacher"
            )

    def _open_inputs(self, stored: StoredMoments, own: StoredMoments) -> TeacherInputs:
        """Open the splits as a teacher or an ensemble of these moments embeds them, and how students are scored."""
        params, layout, runtime = self.params, self.project.layout, self.project.runtime
        teacher = None if own is stored else own.teacher
        splits = {name: open_split(name, layout, runtime, teacher) for name in ("train", "val", self.zero_shot_set)}
        size, views = params.training.image_size, params.training.max_views or splits["train"].store.views
        pixels = {name: s.pixels(size, views, layout, runtime) for name, s in splits.items()}
        val, zero_shot = (
            make_eval_split(splits[name], pixels[name], params.subset, size) for name in ("val", self.zero_shot_set)
        )
        reference = own.for_norm("l2")
        spaces = ensemble_spaces(reference_spaces(reference, params.floor), own.teacher, stored, params.floor)
        evaluator = ArmEvaluator(zero_shot, val, reference, spaces, params.rules, params.floor, runtime.batch)
        if params.selection_metric not in evaluator.selection_metrics:
            known = ", ".join(evaluator.selection_metrics)
            raise UsageError(f"compare.selection_metric: '{params.selection_metric}' is not among {known}")
        return TeacherInputs(splits["train"], pixels["train"], evaluator)


def apply_overrides(
    params: CompareParams, student: str | None, targets: Sequence[str] | None, seeds: int | None
) -> CompareParams:
    """Return the parameters with the command line's overrides; raises UsageError if reference or control is missing."""
    changes = {"student": student, "targets": tuple(targets) if targets else None, "seeds": seeds}
    changed = params.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if changed.reference not in changed.targets:
        raise UsageError(
            f"compare: the reference '{changed.reference}' is not among the arms {', '.join(changed.targets)}"
        )
    if changed.headline_rule not in changed.rules:
        raise UsageError(f"compare.headline_rule: '{changed.headline_rule}' is not in compare.rules")
    return changed.model_copy(update={"control": changed.control if changed.control in changed.targets else None})
