"""Everything that a comparison has to tell, before it is put into tables, figures and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.comparison.contrasts import Contrast, ContrastSpec, RunResult, best_learning_rates, contrasts, scored_runs
from pipeline.comparison.params import CompareParams
from pipeline.comparison.run_store import TUNING_SEED
from pipeline.comparison.statistics import Interval, paired_t_interval


@dataclass(frozen=True)
class ComparisonResults:
    """Everything that a comparison has to tell."""

    params: CompareParams
    seeds: int
    ceilings: Mapping[str, float]
    chance: Mapping[str, float]
    runs: Sequence[RunResult]
    non_control_arms: tuple[str, ...]
    """Arms that were taught the truth; the others are there to fail."""

    @cached_property
    def rates(self) -> dict[tuple[str, float], float]:
        """Return the learning rate that each (arm, budget) was given."""
        return best_learning_rates(self.runs, self.params.choose_by, TUNING_SEED)

    @cached_property
    def scored_runs(self) -> list[RunResult]:
        """Return the runs of seeds 1 to the requested number."""
        return [r for r in scored_runs(self.runs, self.rates, TUNING_SEED) if r.seed <= self.seeds]

    def contrasts_with(self, reference: str, epochs: float, metric: str, share: float) -> list[Contrast]:
        """Compare the arms with a reference under one metric."""
        asked = ContrastSpec(reference, metric, self.chance[metric], share, self.params.margin)
        return contrasts([r for r in self.scored_runs if r.arm in self.non_control_arms], epochs, asked)

    def final_interval(self, arm: str, epochs: float, metric: str) -> Interval:
        """Return the mean over seeds of where an arm ends."""
        return paired_t_interval(
            np.array([r.final[metric] for r in self.scored_runs if (r.arm, r.epochs) == (arm, epochs)])
        )

    @property
    def references(self) -> list[str]:
        """Return what arms are compared with: the reference, and the control where it was run."""
        return [self.params.reference] + ([self.params.control] if self.params.control else [])
