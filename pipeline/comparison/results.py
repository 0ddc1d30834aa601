"""Results of a comparison, from which tables, figures and sentences are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.comparison.contrasts import Contrast, ContrastSpec, RunResult, chosen_rates, contrasts, scored_runs
from pipeline.comparison.params import CompareParams
from pipeline.comparison.run_store import TUNING_SEED
from pipeline.comparison.statistics import Interval, paired_t_interval

EXPLAINED = "r2"
"""How the names of metrics begin that are relative to the teacher's own variance."""


@dataclass(frozen=True)
class ComparisonResults:
    """All results of a comparison."""

    params: CompareParams
    seeds: int
    ceilings: Mapping[str, float]
    chance: Mapping[str, float]
    runs: Sequence[RunResult]
    non_control_arms: tuple[str, ...]
    """Arms trained on correct targets; the others are negative controls expected to stay at chance."""
    teachers: Mapping[str, str] = field(default_factory=dict)
    """Name of the teacher or ensemble of each arm that is not of the first teacher."""
    other_ceilings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Ceilings of these arms."""

    def ceilings_of(self, arm: str) -> Mapping[str, float]:
        """Return the scores of an arm's own teacher."""
        return self.other_ceilings.get(arm, self.ceilings)

    def metrics_of(self, arm: str) -> list[str]:
        """Return the metrics of an arm's runs, sorted; those by band of axes depend on its teacher's dimensions."""
        return sorted(next((run.final for run in self.scored_runs if run.arm == arm), ()))

    def comparable_arms(self, reference: str, metric: str) -> tuple[str, ...]:
        """Return the arms that a metric compares: how much of its teacher a student explains only those of one teacher.

        Accuracies and recalls compare all.
        """
        arms = self.non_control_arms
        if not metric.startswith(EXPLAINED):
            return arms
        return tuple(arm for arm in arms if self.teachers.get(arm) == self.teachers.get(reference))

    @cached_property
    def rates(self) -> dict[tuple[str, float], float]:
        """Return the learning rate of each (arm, budget)."""
        return chosen_rates(self.runs, self.params.learning_rates, self.params.selection_metric, TUNING_SEED)

    @cached_property
    def scored_runs(self) -> list[RunResult]:
        """Return the runs of seeds 1 to the requested number."""
        return [r for r in scored_runs(self.runs, self.rates, TUNING_SEED) if r.seed <= self.seeds]

    def contrasts_with(self, reference: str, epochs: float, metric: str, share: float) -> list[Contrast]:
        """Compare the arms with a reference under one metric."""
        spec = ContrastSpec(reference, metric, self.chance[metric], share, self.params.margin)
        arms = self.comparable_arms(reference, metric)
        return contrasts([r for r in self.scored_runs if r.arm in arms], epochs, spec)

    def final_interval(self, arm: str, epochs: float, metric: str) -> Interval:
        """Return an arm's final value: mean and interval over seeds."""
        return paired_t_interval(
            np.array([r.final[metric] for r in self.scored_runs if (r.arm, r.epochs) == (arm, epochs)])
        )

    @property
    def references(self) -> list[str]:
        """Return the arms of comparison: the reference, and the control if it was run."""
        return [self.params.reference] + ([self.params.control] if self.params.control else [])
