"""Text and tables of an audit: the cost of the scoring rule to the teacher, and of a target space to its students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.audit import ALL_RULES, IN_SPACE, AuditResult, SpaceAudit
from pipeline.evaluation.scoring_rules import COVARIANCE_RULES
from pipeline.project.terminal import printable
from pipeline.whitening.comoments import sample_size_warning
from pipeline.whitening.methods import ROTATING

WORTH_SAYING = 0.01
"""One point: less is within the noise of a thousand images."""
LOSSY = 1e-3
"""Fraction of the variance; a student's own error is a hundred times as large."""
UNSTABLE = 0.1
FITTED = (IN_SPACE, *COVARIANCE_RULES)
"""Rules whose transform depends on the covariance."""
DAGGER = "†"


def render_audit(audit: AuditResult) -> Group:
    """Return the whole audit: the main result, then tables, then warnings."""
    parts: list[RenderableType] = [Text(printable(audit_headline(audit)), style="bold"), Text()]
    parts += [_scores(audit, column) for column in audit.ceiling]
    parts.append(_soundness(audit))
    parts += [f"• {line}" for line in warnings(audit)]
    return Group(*parts)


def audit_headline(audit: AuditResult) -> str:
    """Return the main result in one sentence: the cost of the scoring rule."""
    if not audit.ceiling:
        return "Nothing to score the teacher on: no zero-shot set, and val has no captions."
    column, scores = next(iter(audit.ceiling.items()))
    if "whitened" not in scores:
        return f"The teacher scores {_percent(scores['clip'])} on {column}; there are no captions to fit texts to."
    lost = 100 * (scores["clip"] - scores["whitened"])
    mark = f" {DAGGER}" if _sample_size(audit) else ""
    cost = f"{'costs' if lost >= 0 else 'adds'} {abs(lost):.1f} points"
    return (
        f"The teacher scores {_percent(scores['clip'])} on {column} by `clip` and {_percent(scores['whitened'])} by "
        f"`whitened`{mark}: the rule alone {cost}."
    )


def warnings(audit: AuditResult) -> list[str]:
    """Return warnings about spaces that limit students, are ill-conditioned, or could not be fitted."""
    few = _sample_size(audit)
    own = [space for space in audit.spaces if space.name in audit.targets]
    lines = [line for space in own for line in (*_capped(audit, space), *_unsound(space))]
    for side, noises in audit.noise.items():
        lines += [
            f"A {noise.dtype} cache would add noise of more than a tenth of the signal to {noise.above_tenth} of the "
            f"{noise.axes} axes of the {side}s, at worst {noise.worst:.2g} times the signal: embeddings stay float32."
            for noise in noises
            if noise.above_tenth
        ]
    lines = [f"{DAGGER} {few}", *lines] if few else lines
    return [*lines, *audit.advice, *(f"Not fitted: {reason}" for reason in audit.refused.values())]


def _capped(audit: AuditResult, space: SpaceAudit) -> Iterator[str]:
    if space.method in ROTATING:
        yield (
            f"{space.name}: {space.method} rotates images and texts differently, so they cannot be compared in this "
            "space. Score its students by `clip`."
        )
    ceiling = {column: scores["clip"] for column, scores in audit.ceiling.items()}
    inside = {column: scores.get(IN_SPACE, ceiling[column]) for column, scores in space.scores.items()}
    if capped := _below(inside, ceiling):
        yield (
            f"{space.name}: scored in the space itself, the teacher gets {capped}; so does a student that reproduces "
            "it exactly. Score by `clip`, which un-whitens first."
        )
    if lost := _below({column: scores["clip"] for column, scores in space.scores.items()}, ceiling):
        yield (
            f"{space.name}: after un-whitening, an exact copy of the teacher gets {lost}. Removed axes, and norms that "
            "post_norm removes, cannot be recovered."
        )


def _below(scores: Mapping[str, float], ceiling: Mapping[str, float]) -> str:
    """Return the columns in which scores are more than a point, or a fifth, below the ceiling."""
    return ", ".join(
        f"{_percent(scores[column])} on {column} instead of {_percent(most)}"
        for column, most in ceiling.items()
        if most - scores[column] > min(WORTH_SAYING, most / 5)
    )


def _unsound(space: SpaceAudit) -> Iterator[str]:
    if space.round_trip_error > LOSSY:
        yield f"{space.name}: whitening and un-whitening loses {_percent(space.round_trip_error)} of the variance."
    if space.split_half_distance > UNSTABLE:
        yield (
            f"{space.name}: two halves of the training rows fit different spaces "
            f"({space.split_half_distance:.2f} apart; "
            "0: equal, 1: unrelated): axes of small or nearly equal variance depend on the sample."
        )


def _scores(audit: AuditResult, column: str) -> Table:
    rules = [rule for rule in ALL_RULES if any(rule in space.scores[column] for space in audit.spaces)]
    few = _sample_size(audit)
    what = "R@1, mean of both directions" if column == "val" else "top-1"
    table = Table(title=f"{column}: the teacher's {what}, in %; chance {_percent(audit.chance[column])}")
    table.title_justify = "left"
    table.add_column("target space")
    for rule in rules:
        name = "in the space" if rule == IN_SPACE else rule
        table.add_column(f"{name} {DAGGER}" if few and rule in FITTED else name, justify="right")
    for space in audit.spaces:
        cells = (f"{100 * space.scores[column][r]:.1f}" if r in space.scores[column] else "–" for r in rules)
        table.add_row(space.name, *cells, style="bold" if space.name in audit.targets else None)
    return table


def _soundness(audit: AuditResult) -> Table:
    table = Table(title=f"numerical diagnostics, {audit.counts['dimensions']} dimensions", title_justify="left")
    table.add_column("target space")
    for name in ("condition", "floored image/text", "round-trip error", "split-half distance", "logit scale"):
        table.add_column(name, justify="right")
    for space in audit.spaces:
        scale = "–" if space.logit_scale is None else f"{space.logit_scale:.0f}"
        counts = " / ".join(map(str, space.floored))
        cells = (
            f"{space.condition:.1e}",
            counts,
            f"{space.round_trip_error:.0e}",
            f"{space.split_half_distance:.3f}",
            scale,
        )
        table.add_row(space.name, *cells, style="bold" if space.name in audit.targets else None)
    return table


def _sample_size(audit: AuditResult) -> str | None:
    """Return a warning if the spaces were fitted to too few rows of a modality."""
    counts = {side: audit.counts.get(f"train {side} rows") for side in ("image", "text")}
    rows = {side: count for side, count in counts.items() if count is not None}
    return sample_size_warning(rows, audit.counts["dimensions"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
