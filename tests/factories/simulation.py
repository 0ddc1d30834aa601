"""Simulated comparisons whose truth is known: learning curves with seeds, noise and a planted difference."""

from __future__ import annotations

import numpy as np

from pipeline.comparison.contrasts import RunResult

CHANCE, END = 0.1, 0.5


def simulated_run(
    arm: str, seed: int, world: int, *, speed: float = 1.0, gain: float = 0.0, epochs: float = 4
) -> RunResult:
    """Return a run that climbs from chance with a time constant of 0.8/speed epochs and ends `gain` higher.

    The seed's own luck is shared by the arms, as weights and batches are; a run's own luck, and the noise of
    1000 scored images at each of ten evaluations an epoch, are not.
    """
    shared = np.random.default_rng([world, seed])
    own = np.random.default_rng([world, seed, *map(ord, arm)])
    end = END + gain + 0.02 * shared.normal() + 0.01 * own.normal()
    constant = 0.8 / speed * np.exp(0.15 * shared.normal() + 0.1 * own.normal())
    steps = np.arange(1, round(10 * epochs) + 1) / 10
    curve = CHANCE + (end - CHANCE) * (1 - np.exp(-steps / constant)) + 0.015 * own.normal(size=len(steps))
    final = float(end - (end - CHANCE) * np.exp(-epochs / constant))
    return RunResult(arm, seed, 0.01, epochs, tuple(steps), {"clip": tuple(curve)}, {"clip": final}, {}, 1.0)


def simulated_world(world: int, arms: dict[str, dict[str, float]], seeds: int = 5) -> list[RunResult]:
    """Return the runs of one comparison: a plain reference named raw, and arms with their planted differences."""
    planted = {"raw": dict[str, float](), **arms}
    return [simulated_run(arm, seed, world, **own) for arm, own in planted.items() for seed in range(1, seeds + 1)]
