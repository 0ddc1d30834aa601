"""The runs of a comparison on disk, and which ones are still to be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.sealed import read_sealed, write_sealed
from pipeline.comparing.trial import Trial
from pipeline.evaluation.experiment import Run, chosen_rates
from pipeline.evaluation.plan import next_rate

CHOOSING_SEED = 0
"""The seed that chooses the rates; those that count are 1, 2, …"""


@dataclass(frozen=True)
class Runs:
    """A folder of finished runs, one sealed file each; an arm's folder carries the fingerprint of the arm."""

    folder: Path
    arms: Mapping[str, str]
    """Name of an arm → its fingerprint."""

    def path(self, trial: Trial) -> Path:
        """Return the file of a run."""
        arm = f"{trial.arm}-{self.arms[trial.arm]}"
        return self.folder / arm / f"epochs-{trial.epochs}-rate-{trial.rate:g}-seed-{trial.seed}.json"

    def state(self, trial: Trial) -> Path:
        """Return the file that an interrupted run is resumed from."""
        return self.path(trial).with_suffix(".state")

    def read(self) -> list[Run]:
        """Return the finished runs of these arms.

        Raises:
            DamagedError: a file was changed after it was written.
        """
        folders = [self.folder / f"{name}-{mark}" for name, mark in sorted(self.arms.items())]
        return [Run.read(read_sealed(path)) for folder in folders for path in sorted(folder.glob("*.json"))]

    def keep(self, trial: Trial, run: Run) -> None:
        """Write a finished run, and drop what it was resumed from."""
        write_sealed(self.path(trial), run.written())
        self.state(trial).unlink(missing_ok=True)


@dataclass(frozen=True)
class Wish:
    """Which runs a comparison wants."""

    arms: Sequence[str]
    epochs: Sequence[int]
    rates: Sequence[float]
    seeds: int
    choose_by: str

    def missing(self, runs: Sequence[Run]) -> list[Trial]:
        """Return what can be run next: rates first, then seeds at each arm's best rate, one seed after another.

        Empty once nothing is missing. A rate is chosen when its optimum has neighbours on both sides.
        """
        done = {Trial(r.arm, r.seed, r.rate, int(r.epochs)) for r in runs}
        search = [t for e in self.epochs for arm in self.arms if (t := self._rate(runs, arm, e)) is not None]
        if search:
            return search
        best = chosen_rates(runs, self.choose_by, CHOOSING_SEED)
        wanted = [
            Trial(arm, seed, best[arm, e], e)
            for seed in range(1, self.seeds + 1) for e in self.epochs for arm in self.arms
        ]  # fmt: skip
        return [trial for trial in wanted if trial not in done]

    def _rate(self, runs: Sequence[Run], arm: str, epochs: int) -> Trial | None:
        found = [r for r in runs if (r.arm, r.epochs, r.seed) == (arm, epochs, CHOOSING_SEED)]
        rate = next_rate({r.rate: r.final[self.choose_by] for r in found}, self.rates)
        return None if rate is None else Trial(arm, CHOOSING_SEED, rate, epochs)
