"""The outcome in sentences that follow from the confidence intervals alone."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.comparison.contrasts import Contrast, EndContrast
from pipeline.comparison.convergence import SpeedUp
from pipeline.comparison.statistics import Interval, detectable

ALPHA = 0.05
POINTS = 100.0
"""From fractions to percentage points."""


def verdicts(
    against_reference: Sequence[Contrast], against_control: Sequence[Contrast], margin: float
) -> dict[str, str]:
    """Return a sentence for each arm; both sequences are of one budget and one metric."""
    controls = {c.arm: c for c in against_control}
    return {c.arm: sentence(c, controls.get(c.arm), margin) for c in against_reference}


def sentence(reference: Contrast, control: Contrast | None, margin: float) -> str:
    """Return the result of one arm: its speed, whether it exceeds the control, and its final accuracy."""
    parts = [_speed(reference.speed, reference.reference)]
    if control is not None:
        parts.append(_beyond(reference.speed, control.speed, control.arm, control.reference))
    ends = [end_sentence(c, margin) for c in (reference, control) if c is not None]
    return "; ".join([*parts, *ends])


def direction(speed: SpeedUp) -> int:
    """Return 1 for faster, −1 for slower, 0 if Holm's p or the interval leaves it open."""
    if speed.p >= ALPHA or speed.low <= 1 <= speed.high:
        return 0
    return 1 if speed.ratio > 1 else -1


def end_direction(end: Interval) -> int:
    """Return 1 for a higher final value, −1 for a lower one, 0 if open."""
    if end.p >= ALPHA or end.low <= 0 <= end.high:
        return 0
    return 1 if end.mean > 0 else -1


def format_ratio(speed: SpeedUp) -> str:
    """Return a ratio of times with its interval: `2.9× [2.1, 3.8]`, `≥ 2.9×` if runs were censored.

    An interval that ends near 1 has a second decimal, to show whether it contains 1.
    """
    bound = f"{speed.bound} " if speed.bound else ""
    digits = 2 if "1.0" in (f"{speed.low:.1f}", f"{speed.high:.1f}") else 1
    return f"{bound}{speed.ratio:.{digits}f}× [{speed.low:.{digits}f}, {speed.high:.{digits}f}]"


def format_points(end: Interval) -> str:
    """Return a difference of accuracies in points with its interval."""
    mean, low, high = (POINTS * x for x in (end.mean, end.low, end.high))
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _speed(speed: SpeedUp, reference: str) -> str:
    if speed.arm_reached == 0 == speed.reference_reached:
        return f"neither it nor {reference} held the level within the budget"
    words = {1: f"faster than {reference}", -1: f"slower than {reference}", 0: f"speed against {reference} is open"}
    return f"{words[direction(speed)]}: {format_ratio(speed)}"


def _beyond(reference: SpeedUp, control: SpeedUp, arm: str, name: str) -> str:
    """Return whether a gain over the reference exceeds the control's own gain.

    `scale, not zca` requires that the interval against the control contains 1 and ends below the start of the interval
    against the reference, so that the remaining gain is smaller than the gain over the reference.
    """
    comparison = f"against {name}: {format_ratio(control)}"
    if direction(control) > 0:
        return f"{comparison}: more than {name}"
    if direction(control) < 0:
        return f"{comparison}: slower than {name} alone"
    if direction(reference) > 0 and control.low <= 1 and control.high < reference.low:
        return f"{comparison}: {name}, not {arm}"
    return f"{comparison}: whether it adds to {name} is open"


def end_sentence(contrast: Contrast | EndContrast, margin: float, unit: str = "seeds") -> str:
    """Return an arm's final value relative to a reference: higher, lower, equal within the margin, or undecided."""
    end, reference = contrast.final, contrast.reference
    if (way := end_direction(end)) != 0:
        words = "higher" if way > 0 else "lower"
        return f"ends {words} than {reference}: {format_points(end)}"
    if contrast.equivalence_p < ALPHA:
        wide = f"{POINTS * margin:g} point" + ("" if POINTS * margin == 1 else "s")
        return f"ends equal to {reference} within {wide}: {format_points(end)}"
    detectable_points = POINTS * detectable(contrast.paired_sd, end.pairs)
    return (
        f"its end against {reference} is open: {format_points(end)} "
        f"({end.pairs} {unit} show {detectable_points:.1f} points 4 times in 5)"
    )
