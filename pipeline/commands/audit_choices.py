"""Score the teacher's plain cosine on choice sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.terminal import PlainConsole
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import CosineScorer
from pipeline.relations.scoring import open_tokens, score_set
from pipeline.reporting.sections.relations import at_chance


def audit_choices(splits: Sequence[str], layout: Layout, runtime: Runtime) -> dict[str, Any]:
    """Score the teacher's cosine on every choice set.

    Raises:
        CacheError: a set is missing or damaged.
        UsageError: a split has no choices.
    """
    plain = ScorerParams(kind="cosine")
    return {"sets": {split: score_set(CosineScorer(), open_tokens(split, plain, layout, runtime)) for split in splits}}


def print_choices(result: dict[str, Any], console: PlainConsole) -> None:
    """Print the accuracies, and a line for each set on which cosine is at chance."""
    table = Table(box=None, pad_edge=False, title="plain cosine on choice sets, in %", title_justify="left")
    for name in ("set", "task", "text", "image", "group", "chance", "questions"):
        table.add_column(name)
    for split, tasks in result["sets"].items():
        for task, scores in tasks.items():
            accuracy = scores["cosine"]
            values = (accuracy[name] for name in ("text", "image", "group", "text_chance"))
            cells = ("" if value is None else f"{100 * value:.1f}" for value in values)
            table.add_row(split, task, *cells, str(accuracy["questions"]))
    console.print(table)
    for line in at_chance(result):
        console.print(line, soft_wrap=True)
