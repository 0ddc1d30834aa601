"""Everything that a comparison has to tell, before it is put into tables, figures and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.comparing.bench import CompareParams
from pipeline.comparing.runs import CHOOSING_SEED
from pipeline.evaluation.experiment import Contrast, Question, Run, chosen_rates, contrasts, counted
from pipeline.evaluation.statistics import Interval, paired


@dataclass(frozen=True)
class Told:
    """Everything that a comparison has to tell."""

    params: CompareParams
    seeds: int
    ceilings: Mapping[str, float]
    blind: Mapping[str, float]
    runs: Sequence[Run]
    sane: tuple[str, ...]
    """Arms that were taught the truth; the others are there to fail."""

    @cached_property
    def rates(self) -> dict[tuple[str, float], float]:
        """Return the learning rate that each (arm, budget) was given."""
        return chosen_rates(self.runs, self.params.choose_by, CHOOSING_SEED)

    @cached_property
    def counted(self) -> list[Run]:
        """Return the runs that count, seeds 1 to as many as were asked for."""
        return [r for r in counted(self.runs, self.rates, CHOOSING_SEED) if r.seed <= self.seeds]

    def against(self, reference: str, epochs: float, metric: str, share: float) -> list[Contrast]:
        """Compare the arms with a reference under one metric."""
        asked = Question(reference, metric, self.blind[metric], share, self.params.margin)
        return contrasts([r for r in self.counted if r.arm in self.sane], epochs, asked)

    def ends(self, arm: str, epochs: float, metric: str) -> Interval:
        """Return the mean over seeds of where an arm ends."""
        return paired(np.array([r.final[metric] for r in self.counted if (r.arm, r.epochs) == (arm, epochs)]))

    @property
    def references(self) -> list[str]:
        """Return what arms are compared with: the reference, and the control where it was run."""
        return [self.params.reference] + ([self.params.control] if self.params.control else [])
