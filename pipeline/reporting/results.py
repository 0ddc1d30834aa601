"""The results of a project, read from its files; what is missing is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cache.atomic import read_checksummed_json
from cache.reader import EmbeddingStore
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.model_files import (
    check_arm,
    read_arm_card,
    read_evaluated_table,
    read_history,
    read_metrics,
    read_profile,
)
from pipeline.project.layout import CARD, Layout
from pipeline.whitening.spaces import TargetSpace, load_space

T = TypeVar("T")
STUDENT, TEACHER = "torch fp32", "teacher, torch fp32"
"""Names of the models' forms in profile.json."""


@dataclass(frozen=True)
class ArmResults:
    """Files of a student trained in a target space."""

    student: str
    target: str
    folder: Path
    card: dict[str, Any] | None
    metrics: dict[str, Any] | None
    profile: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return f"{self.student}-{self.target}"

    @property
    def commands(self) -> str:
        """Return the commands that make this arm's numbers."""
        return f"python cli.py evaluate --student {self.student} --target {self.target}"

    @cached_property
    def history(self) -> CsvTable | None:
        """Return the student's training history."""
        return None if self.card is None else read_history(self.folder, self.card)

    def table(self, name: str) -> CsvTable | None:
        """Return one of the tables that `evaluate` wrote."""
        return None if self.card is None else read_evaluated_table(self.folder, self.card, name)

    def milliseconds(self, form: str) -> float | None:
        """Return the latency of one image on one thread, of this student or of its teacher, if it was profiled."""
        costs = [cost for cost in (self.profile or {}).get("costs", []) if cost["form"] == form]
        return next((float(time["median"]) for cost in costs for time in cost["latency"]), None)

    def zero_shot(self, split: str, rule: str) -> dict[str, Any] | None:
        """Return the metrics of a set under a rule."""
        scores = (self.metrics or {}).get("zero_shot", {}).get(split, {}).get(rule)
        return scores if isinstance(scores, dict) else None


@dataclass(frozen=True)
class ProjectResults:
    """The results of a project so far."""

    layout: Layout
    arms: tuple[ArmResults, ...]
    splits: tuple[str, ...]
    targets: tuple[str, ...]
    target_spaces: dict[str, TargetSpace]
    packed: dict[str, PackedSplit]
    stores: dict[str, EmbeddingStore]
    rule_order: tuple[str, ...] = ()
    """Scoring rules in the order of the parameters; metrics.json sorts its keys."""
    headline: str = "clip"
    """Scoring rule of the first screen."""

    @property
    def measured(self) -> list[ArmResults]:
        """Return the evaluated arms."""
        return [arm for arm in self.arms if arm.metrics]

    @property
    def students(self) -> list[str]:
        """Return the students in the order of the parameters."""
        return list(dict.fromkeys(arm.student for arm in self.arms))

    @property
    def sets(self) -> list[str]:
        """Return the zero-shot sets with scores, in the order of the parameters."""
        scored = {name for arm in self.arms for name in (arm.metrics or {}).get("zero_shot", {})}
        return [split for split in self.splits if split in scored]

    @property
    def rules(self) -> list[str]:
        """Return the scoring rules with scores: the headline's first, then in the order of the parameters."""
        metrics = [arm.metrics or {} for arm in self.arms]
        sets = [rules for one in metrics for part in ("zero_shot", "retrieval") for rules in one.get(part, {}).values()]
        used = dict.fromkeys(rule for rules in sets for rule in rules)
        return [rule for rule in dict.fromkeys((self.headline, *self.rule_order, *used)) if rule in used]

    def numbers(self, split: str, rule: str) -> dict[str, Any] | None:
        """Return the metrics of a set under a rule from the first arm with them; all arms share ceiling and chance."""
        return next((numbers for arm in self.measured if (numbers := arm.zero_shot(split, rule))), None)


def read_findings(
    arms: Sequence[tuple[str, str]],
    splits: Sequence[str],
    targets: Sequence[str],
    layout: Layout,
    *,
    rules: Sequence[str] = (),
    headline: str = "clip",
) -> ProjectResults:
    """Read the results of a project.

    Raises:
        DamagedError: a file was changed.
        MissingError: a folder lacks one of its files.
    """
    return ProjectResults(
        layout,
        tuple(_arm(student, target, layout) for student, target in arms),
        tuple(splits),
        tuple(targets),
        _read_present(targets, layout.target, load_space),
        _read_present(splits, layout.packed, open_packed),
        _read_present(splits, layout.embeddings, EmbeddingStore.open),
        tuple(rules),
        headline,
    )


def read_run_folder(folder: Path) -> ArmResults:
    """Read the folder of one finished run, with any name.

    Raises:
        MissingError: there is no finished student.
        DamagedError: a file was changed.
    """
    card = read_checksummed_json(folder / CARD)
    return _results(str(card["student"]), str(card["target"]), folder, card)


def _arm(student: str, target: str, layout: Layout) -> ArmResults:
    folder = layout.model(student, target)
    card = read_arm_card(folder)
    if card is None:
        return ArmResults(student, target, folder, None, None, None)
    check_arm(folder, card, layout)
    return _results(student, target, folder, card)


def _results(student: str, target: str, folder: Path, card: dict[str, Any]) -> ArmResults:
    return ArmResults(student, target, folder, card, read_metrics(folder, card), read_profile(folder, card))


def _read_present(names: Sequence[str], place: Callable[[str], Path], read: Callable[[Path], T]) -> dict[str, T]:
    """Return the existing results by name; missing ones are omitted, incomplete ones are refused."""
    return {name: read(place(name)) for name in names if place(name).exists()}
