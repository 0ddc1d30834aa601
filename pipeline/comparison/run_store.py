"""Runs of a comparison on disk, and the list of missing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, StaleError
from pipeline.comparison.contrasts import LATE, RunResult, chosen_rates
from pipeline.comparison.runner import Trial
from pipeline.comparison.schedule import next_rate

RUN_KEYS = frozenset(field.name for field in fields(RunResult))
TUNING_SEED = 0
"""Seed for tuning the learning rates; the counted seeds are 1, 2, …"""


@dataclass(frozen=True)
class RunStore:
    """A folder of finished runs, one checksummed file each; the name of an arm's folder has the arm's fingerprint."""

    folder: Path
    arms: Mapping[str, str]
    """Name of an arm → its fingerprint."""

    def path(self, trial: Trial) -> Path:
        """Return the file of a run."""
        arm = f"{trial.arm}-{self.arms[trial.arm]}"
        without = f"-without-{trial.held_out}" if trial.held_out else ""
        return self.folder / arm / f"epochs-{trial.epochs}-rate-{trial.rate:g}-seed-{trial.seed}{without}.json"

    def resume_path(self, trial: Trial) -> Path:
        """Return the checkpoint of an interrupted run."""
        return self.path(trial).with_suffix(".state")

    def read(self) -> list[RunResult]:
        """Return the finished runs of these arms.

        Raises:
            DamagedError: a file was changed after it was written, or renamed.
            StaleError: a file has another version.
        """
        folders = [self.folder / f"{name}-{mark}" for name, mark in sorted(self.arms.items())]
        return [read_run(path) for folder in folders for path in sorted(folder.glob("*.json"))]

    def save(self, trial: Trial, run: RunResult) -> None:
        """Write a finished run, and remove its checkpoint."""
        path = self.path(trial)
        write_checksummed_json(path, {**run.to_dict(), "file": _file(path)})
        self.resume_path(trial).unlink(missing_ok=True)


def read_run(path: Path) -> RunResult:
    """Return a finished run.

    Raises:
        DamagedError: the file was changed after it was written, or renamed.
        StaleError: it has other keys, from another version.
    """
    record = read_checksummed_json(path)
    if (file := record.pop("file", _file(path))) != _file(path):
        raise DamagedError(f"{path}: is the run {file}: it was renamed or moved. Move it back, or delete it.")
    if odd := (record.keys() ^ RUN_KEYS) - set(LATE):
        raise StaleError(
            f"{path}: a run of another version: {_named(odd, record)}. Delete it: `compare` runs it again."
        )
    return RunResult.from_dict(record)


def _named(odd: Set[str], fields: Mapping[str, object]) -> str:
    """Return a text about the unknown and the missing keys of a run."""
    parts = {"has": sorted(odd & fields.keys()), "lacks": sorted(odd - fields.keys())}
    return " and ".join(f"{verb} {', '.join(f'`{key}`' for key in keys)}" for verb, keys in parts.items() if keys)


def _file(path: Path) -> str:
    """Return the identity of a run: its arm's folder with the fingerprint, and its file name."""
    return f"{path.parent.name}/{path.name}"


@dataclass(frozen=True)
class RunSchedule:
    """Runs that a comparison needs."""

    arms: Sequence[str]
    epochs: Sequence[int]
    rates: Sequence[float]
    seeds: int
    selection_metric: str
    folds: Sequence[str] = ()
    """Domains to hold out in turn, each with its own rates; empty in a comparison over seeds only."""

    def missing(self, runs: Sequence[RunResult]) -> list[Trial]:
        """Return the next runs: first for tuning the rates, then the seeds at each arm's best rate.

        Empty when nothing is missing. A rate is chosen when its optimum has neighbors on both sides; a single rate is
        fixed. Seeds alternate over the domains, so that an interrupted comparison has run all of them equally often.
        """
        if not self.folds:
            return self._missing(runs)
        each = {fold: self._missing([run for run in runs if run.held_out == fold]) for fold in self.folds}
        trials_of_folds = [replace(trial, held_out=fold) for fold, trials in each.items() for trial in trials]
        return sorted(trials_of_folds, key=lambda trial: trial.seed)

    def _missing(self, runs: Sequence[RunResult]) -> list[Trial]:
        done = {Trial(r.arm, r.seed, r.learning_rate, int(r.epochs)) for r in runs}
        search = [t for e in self.epochs for arm in self.arms if (t := self._rate(runs, arm, e)) is not None]
        if search:
            return search
        best = chosen_rates(runs, self.rates, self.selection_metric, TUNING_SEED)
        trials = [
            Trial(arm, seed, best.get((arm, e), self.rates[0]), e)
            for seed in range(1, self.seeds + 1)
            for e in self.epochs
            for arm in self.arms
        ]
        return [trial for trial in trials if trial not in done]

    def _rate(self, runs: Sequence[RunResult], arm: str, epochs: int) -> Trial | None:
        if len(self.rates) == 1:
            return None
        tuning_runs = [r for r in runs if (r.arm, r.epochs, r.seed) == (arm, epochs, TUNING_SEED)]
        rate = next_rate({r.learning_rate: r.final[self.selection_metric] for r in tuning_runs}, self.rates)
        return None if rate is None else Trial(arm, TUNING_SEED, rate, epochs)
