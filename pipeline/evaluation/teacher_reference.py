"""A student's score relative to its ceiling, the teacher under the same rule, and to chance."""

from __future__ import annotations

from math import sqrt

CHANCE_ERRORS = 3.0
"""Standard errors of guessing above which an accuracy is no luck: once in 700 sets it would be."""


def retention(student: float, ceiling: float) -> float | None:
    """Return student/ceiling, or None where the ceiling is zero."""
    return student / ceiling if ceiling > 0 else None


def is_above_chance(accuracy: float, chance_level: float, count: int) -> bool:
    """Return whether an accuracy over so many images is more than guessing gives: by three of its standard errors."""
    return accuracy - chance_level > CHANCE_ERRORS * sqrt(chance_level * (1 - chance_level) / count)


def kept_above_chance(student: float, ceiling: float, chance_level: float, count: int) -> float | None:
    """Return (student − chance)/(ceiling − chance), or None where the ceiling is not significantly above chance."""
    if not is_above_chance(ceiling, chance_level, count):
        return None
    return (student - chance_level) / (ceiling - chance_level)
