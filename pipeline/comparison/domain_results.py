"""Results of a comparison over domains: each arm on each held-out domain, paired by seed and domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pipeline.comparison.contrasts import EndContrast, RunResult, chosen_rates, end_contrasts
from pipeline.comparison.leave_one_out import TARGET, FoldEvaluator
from pipeline.comparison.params import CompareParams
from pipeline.comparison.run_store import TUNING_SEED
from pipeline.comparison.statistics import Interval, paired_t_interval


class Mistake(NamedTuple):
    """An image of a held-out domain that an arm's students misclassified."""

    number: int
    """Index among the images of the domain."""
    true: str
    called: str
    """Most frequent prediction."""
    share: float
    """Fraction of the seeds whose student was wrong."""


@dataclass(frozen=True)
class DomainResults:
    """All results of a comparison over domains."""

    params: CompareParams
    seeds: int
    folds: Mapping[str, FoldEvaluator]
    teacher: Mapping[str, Mapping[str, float]]
    """By held-out domain: accuracy of the teacher, of a probe fitted to the sources, and of the largest class."""
    runs: Sequence[RunResult]

    @property
    def domains(self) -> list[str]:
        """Return the held-out domains."""
        return list(self.folds)

    @property
    def headline(self) -> str:
        """Return the metric of the verdict."""
        return f"{TARGET} {self.params.score}"

    @cached_property
    def rates(self) -> dict[tuple[str, float, str | None], float]:
        """Return the learning rate of each (arm, budget, held-out domain): fixed, or chosen on the other domains."""
        rates_by_fold: dict[tuple[str, float, str | None], float] = {}
        for domain in self.folds:
            runs = [run for run in self.runs if run.held_out == domain]
            best = chosen_rates(runs, self.params.learning_rates, self.params.rate_selection_metric, TUNING_SEED)
            rates_by_fold |= {(arm, epochs, domain): rate for (arm, epochs), rate in best.items()}
        return rates_by_fold

    @cached_property
    def scored_runs(self) -> list[RunResult]:
        """Return the runs at the chosen rate, of seeds 1 to the requested number."""
        return [
            run
            for run in self.runs
            if run.held_out in self.folds
            and TUNING_SEED < run.seed <= self.seeds
            and self.rates.get((run.arm, run.epochs, run.held_out)) == run.learning_rate
        ]

    def end(self, arm: str, epochs: float, metric: str, domain: str) -> Interval:
        """Return an arm's final value on a held-out domain: mean and interval over seeds."""
        runs = self._of(arm, epochs)
        return paired_t_interval(np.array([run.final[metric] for run in runs if run.held_out == domain]))

    def mean(self, arm: str, epochs: float, metric: str) -> Interval:
        """Return the mean over the domains, per seed."""
        return paired_t_interval(self._by_seed(arm, epochs, metric).mean(axis=1))

    def worst(self, arm: str, epochs: float, metric: str) -> Interval:
        """Return the score on the worst domain, per seed."""
        return paired_t_interval(self._by_seed(arm, epochs, metric).min(axis=1))

    def contrasts(self, reference: str, epochs: float, metric: str, domain: str | None = None) -> list[EndContrast]:
        """Compare all arms with one, paired by seed and domain; or by seed, on one domain."""
        runs = [r for r in self.scored_runs if r.epochs == epochs and domain in (None, r.held_out)]
        return end_contrasts(runs, reference, metric, self.params.margin)

    def mistakes(self, arm: str, epochs: float, domain: str, count: int) -> list[Mistake]:
        """Return the images of a domain that most of an arm's students misclassified."""
        fold, classes = self.folds[domain].fold, self.folds[domain].fold.train.split.packed.classes
        predictions = np.array(
            [run.predicted for run in self._of(arm, epochs) if run.held_out == domain and run.predicted]
        )
        if not len(predictions):
            return []
        wrong = predictions != fold.labels
        order = np.argsort(-wrong.mean(axis=0), kind="stable")
        mistakes = []
        for number in order[:count]:
            if not wrong[:, number].any():
                break
            (called, _), *_ = Counter(predictions[wrong[:, number], number].tolist()).most_common(1)
            share = float(wrong[:, number].mean())
            mistakes.append(Mistake(int(number), classes[fold.labels[number]], classes[called], share))
        return mistakes

    def confusions(self, arm: str, epochs: float, domain: str) -> list[tuple[str, str, float]]:
        """Return (true class, prediction, fraction of the true class's images) of an arm, most frequent first."""
        fold, classes = self.folds[domain].fold, self.folds[domain].fold.train.split.packed.classes
        runs = [run for run in self._of(arm, epochs) if run.held_out == domain and run.predicted]
        label_pairs = [pair for run in runs for pair in zip(fold.labels.tolist(), run.predicted, strict=True)]
        pairs = Counter((true, called) for true, called in label_pairs if true != called)
        counts = np.bincount(fold.labels, minlength=len(classes)) * max(len(runs), 1)
        order = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        return [(classes[t], classes[p], float(number / counts[t])) for (t, p), number in order]

    def _of(self, arm: str, epochs: float) -> list[RunResult]:
        return sorted(
            (r for r in self.scored_runs if (r.arm, r.epochs) == (arm, epochs)), key=lambda r: (str(r.held_out), r.seed)
        )

    def _by_seed(self, arm: str, epochs: float, metric: str) -> np.ndarray:
        """Return seeds × domains, for the seeds that have run on all of them."""
        scores = {run.unit: run.final[metric] for run in self._of(arm, epochs)}
        seeds = [s for s in range(1, self.seeds + 1) if all((s, d) in scores for d in self.folds)]
        return np.array([[scores[seed, domain] for domain in self.folds] for seed in seeds]).reshape(
            -1, len(self.folds)
        )
