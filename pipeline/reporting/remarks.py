"""Warnings about figures: ceilings at chance, and rules fitted to too few rows."""

from __future__ import annotations

from pipeline.evaluation.scoring_rules import COVARIANCE_RULES, is_above_chance
from pipeline.reporting.metric_tables import get_path, percent
from pipeline.reporting.page import TextBlock
from pipeline.reporting.results import ProjectResults
from pipeline.whitening.comoments import sample_size_warning


def remarks(results: ProjectResults) -> list[TextBlock]:
    """Return one sentence for each set with unreliable ceilings; empty if there are none."""
    lines = [_at_chance(results, split) for split in results.sets]
    return [TextBlock(line) for line in (*lines, few_rows(results)) if line]


def ceiling_note(results: ProjectResults, split: str, rule: str) -> str:
    """Return the note next to a ceiling: at chance, or fitted to too few rows."""
    at_chance = _is_at_chance(results, split, rule)
    few = rule in COVARIANCE_RULES and few_rows(results)
    return ", ".join(filter(None, ("at chance" if at_chance else "", "few rows" if few else "")))


def few_rows(results: ProjectResults) -> str:
    """Return a warning if whitening rules are used and were fitted to too few rows."""
    fits = (get_path(arm.metrics or {}, "reference_fit") for arm in results.measured)
    fit = next(filter(None, fits), None)
    rules = [rule for rule in COVARIANCE_RULES if rule in results.rules]
    if fit is None or not rules:
        return ""
    return sample_size_warning(fit["rows"], fit["dimensions"], rules) or ""


def _at_chance(results: ProjectResults, split: str) -> str:
    """Return a sentence about the rules under which the teacher is at chance, and students above chance."""
    rules = [rule for rule in results.rules if _is_at_chance(results, split, rule)]
    if not rules:
        return ""
    higher = [
        f"{arm.name} by `{rule}` ({percent(numbers['student'])} %)"
        for rule in rules
        for arm in results.measured
        if (numbers := arm.zero_shot(split, rule))
        and is_above_chance(numbers["student"], numbers["chance"], numbers["n"])
    ]
    more = f" Students above chance, and so above the teacher: {', '.join(higher)}." if higher else ""
    named = ", ".join(f"`{rule}`" for rule in rules)
    return f"On {split} the teacher itself is not significantly above chance by {named}, so there is no ceiling.{more}"


def _is_at_chance(results: ProjectResults, split: str, rule: str) -> bool:
    numbers = results.numbers(split, rule)
    return numbers is not None and not is_above_chance(numbers["ceiling"], numbers["chance"], numbers["n"])
