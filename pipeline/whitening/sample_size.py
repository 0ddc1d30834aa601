"""Whether a covariance was fitted to enough rows for what hangs on it: reference spaces, ceilings, tests of lengths."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.whitening.comoments import CoMoments, Moments

ROWS_PER_DIMENSION = 10
"""Below it small eigenvalues are mostly noise: whitened new rows have E‖y‖²/d of 1.12 here, of 4.3 at 1.3 rows."""


def is_well_sampled(rows: int, dimensions: int) -> bool:
    """Return whether there are at least ten rows a dimension."""
    return rows >= ROWS_PER_DIMENSION * dimensions


def undersampled_sides(moments: CoMoments) -> dict[str, Moments]:
    """Return, by modality, the moments of fewer than ten rows a dimension."""
    return {side: m for side, m in moments.by_modality.items() if not is_well_sampled(m.count, len(m.mean))}


def sample_size_warning(
    rows: dict[str, int], dimensions: int, rules: Sequence[str] = ("whitened", "soft")
) -> str | None:
    """Return what to know of rules that whiten where they were fitted to too few rows, by modality."""
    few = [f"{count} {side} rows" for side, count in rows.items() if not is_well_sampled(count, dimensions)]
    if not few:
        return None
    several = len(rules) > 1
    named = " and ".join(f"`{rule}`" for rule in rules)
    return (
        f"{named} {'were' if several else 'was'} fitted to {' and '.join(few)}, below {ROWS_PER_DIMENSION} a dimension "
        f"({ROWS_PER_DIMENSION * dimensions}): {'their ceilings depend' if several else 'its ceiling depends'} on how "
        f"many there were, and mostly {'rise' if several else 'rises'} with more. Compare students under "
        f"{'these rules' if several else 'this rule'} on this very fit only."
    )
