"""The runs of a comparison on disk, and which ones are still to be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, StaleError
from pipeline.comparison.contrasts import LATE, RunResult, best_learning_rates
from pipeline.comparison.runner import Trial
from pipeline.comparison.schedule import next_rate

RUN_KEYS = frozenset(field.name for field in fields(RunResult))
TUNING_SEED = 0
"""The seed that chooses the rates; those that count are 1, 2, …"""


@dataclass(frozen=True)
class RunStore:
    """A folder of finished runs, one sealed file each; an arm's folder carries the fingerprint of the arm."""

    folder: Path
    arms: Mapping[str, str]
    """Name of an arm → its fingerprint."""

    def path(self, trial: Trial) -> Path:
        """Return the file of a run."""
        arm = f"{trial.arm}-{self.arms[trial.arm]}"
        without = f"-without-{trial.held_out}" if trial.held_out else ""
        return self.folder / arm / f"epochs-{trial.epochs}-rate-{trial.rate:g}-seed-{trial.seed}{without}.json"

    def resume_path(self, trial: Trial) -> Path:
        """Return the file that an interrupted run is resumed from."""
        return self.path(trial).with_suffix(".state")

    def read(self) -> list[RunResult]:
        """Return the finished runs of these arms.

        Raises:
            DamagedError: a file was changed after it was written, or lies in another's place.
            StaleError: a file is of another version.
        """
        folders = [self.folder / f"{name}-{mark}" for name, mark in sorted(self.arms.items())]
        return [read_run(path) for folder in folders for path in sorted(folder.glob("*.json"))]

    def save(self, trial: Trial, run: RunResult) -> None:
        """Write a finished run, and drop what it was resumed from."""
        path = self.path(trial)
        write_checksummed_json(path, {**run.to_dict(), "file": _file(path)})
        self.resume_path(trial).unlink(missing_ok=True)


def read_run(path: Path) -> RunResult:
    """Return a finished run.

    Raises:
        DamagedError: the file was changed after it was written, or lies in another's place.
        StaleError: it has other keys: it was written by another version.
    """
    found = read_checksummed_json(path)
    if (file := found.pop("file", _file(path))) != _file(path):
        raise DamagedError(f"{path}: is the run {file}: it was renamed or moved. Move it back, or delete it.")
    if odd := (found.keys() ^ RUN_KEYS) - set(LATE):
        raise StaleError(f"{path}: a run of another version: {_named(odd, found)}. Delete it: `compare` runs it again.")
    return RunResult.from_dict(found)


def _named(odd: Set[str], found: Mapping[str, object]) -> str:
    """Say which keys a run has too many, and which it lacks."""
    parts = {"has": sorted(odd & found.keys()), "lacks": sorted(odd - found.keys())}
    return " and ".join(f"{verb} {', '.join(f'`{key}`' for key in keys)}" for verb, keys in parts.items() if keys)


def _file(path: Path) -> str:
    """Return what a run is known by: its arm's folder, which carries a fingerprint, and its own name."""
    return f"{path.parent.name}/{path.name}"


@dataclass(frozen=True)
class RunSchedule:
    """Which runs a comparison wants."""

    arms: Sequence[str]
    epochs: Sequence[int]
    rates: Sequence[float]
    seeds: int
    selection_metric: str
    folds: Sequence[str] = ()
    """Domains to leave out in turn, each with rates of its own; none in a comparison over seeds alone."""

    def missing(self, runs: Sequence[RunResult]) -> list[Trial]:
        """Return what can be run next: rates first, then seeds at each arm's best rate, one seed after another.

        Empty once nothing is missing. A rate is chosen when its optimum has neighbours on both sides. Seeds take
        turns over the domains, so that a comparison that is stopped has seen all of them equally often.
        """
        if not self.folds:
            return self._missing(runs)
        each = {fold: self._missing([run for run in runs if run.held_out == fold]) for fold in self.folds}
        wanted = [replace(trial, held_out=fold) for fold, trials in each.items() for trial in trials]
        return sorted(wanted, key=lambda trial: trial.seed)

    def _missing(self, runs: Sequence[RunResult]) -> list[Trial]:
        done = {Trial(r.arm, r.seed, r.learning_rate, int(r.epochs)) for r in runs}
        search = [t for e in self.epochs for arm in self.arms if (t := self._rate(runs, arm, e)) is not None]
        if search:
            return search
        best = best_learning_rates(runs, self.selection_metric, TUNING_SEED)
        wanted = [
            Trial(arm, seed, best[arm, e], e)
            for seed in range(1, self.seeds + 1)
            for e in self.epochs
            for arm in self.arms
        ]
        return [trial for trial in wanted if trial not in done]

    def _rate(self, runs: Sequence[RunResult], arm: str, epochs: int) -> Trial | None:
        found = [r for r in runs if (r.arm, r.epochs, r.seed) == (arm, epochs, TUNING_SEED)]
        rate = next_rate({r.learning_rate: r.final[self.selection_metric] for r in found}, self.rates)
        return None if rate is None else Trial(arm, TUNING_SEED, rate, epochs)
