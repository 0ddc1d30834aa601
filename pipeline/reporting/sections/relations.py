"""Accuracies of relation scorers on choice sets, next to plain cosine and chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.relations.score_files import METRICS, PREFIX, read_scorer_card, read_scores, read_student_scores
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import get_path, percent, provenance
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock, TextBlock
from pipeline.reporting.results import ArmResults
from pipeline.reporting.sections.scores import WAYS
from pipeline.reporting.sections.word_maps import word_map_blocks

LEAD = (
    "Captions that differ only in the relation of objects, and the image for which one of them is true. Text: the "
    "true caption has the highest score; image: the right image has; group: all choices of a group are right. Blind: "
    "the same scorer with unrelated images."
)
COLUMNS = ("set", "task", "tokens", "scorer", "text %", "image %", "group %", "blind %", "chance %", "questions")
STANDARD_ERRORS = 2.0
LOOKS = ("before", "after")


def relation_section(inputs: ReportInputs) -> ReportSection | None:
    """Tabulate accuracies of scorers on the teacher's and on students' tokens; None if there are none."""
    results = inputs.results
    scored = {
        folder: metrics
        for folder in sorted(results.layout.models.glob(f"{PREFIX}*"))
        if folder.is_dir() and (metrics := read_scores(folder)) is not None
    }
    if not scored:
        return None
    first = next(iter(scored))
    rows = list(_cosine(scored[first], first / METRICS))
    for folder, metrics in scored.items():
        rows += _rows(metrics, "teacher", folder.name.removeprefix(PREFIX), folder / METRICS)
        rows += [row for arm in results.arms for row in _student_rows(arm, folder)]
    rows.sort(key=lambda row: (row[0].text, row[1].text))
    blocks: list[Block] = [TableBlock("relations", COLUMNS, tuple(rows), "Accuracies in per cent.")]
    blocks += [*map(TextBlock, at_chance(scored[first])), *_reranked(inputs), *word_map_blocks(inputs)]
    return ReportSection("Relations", blocks, LEAD)


def _reranked(inputs: ReportInputs) -> list[Block]:
    """Tabulate retrieval before and after re-ranking by a scorer."""
    rows = []
    for arm in inputs.results.measured:
        for name, scores in (get_path(arm.metrics or {}, "reranking/val") or {}).items():
            for who, ways in ((arm.name, "student"), ("teacher", "ceiling")):
                for way, looks in scores[ways].items():
                    path = f"reranking/val/{name}/{ways}/{way}"
                    cells = [Cell(percent(looks[look]["R@1"]), provenance(arm, f"{path}/{look}/R@1")) for look in LOOKS]
                    heads = (Cell(text, heading=True) for text in (who, name, WAYS[way], str(scores["k"])))
                    rows.append((*heads, *cells))
    caption = "Retrieval on val: R@1 by CLIP’s cosine, and after a scorer re-ranks the first results, in %."
    columns = ("tokens", "scorer", "direction", "re-ranked results", "cosine", "after re-ranking")
    return [TableBlock("reranking", columns, tuple(rows), caption)] if rows else []


def at_chance(metrics: dict[str, Any]) -> list[str]:
    """Return a sentence for each set on which plain cosine is within two standard errors of chance."""
    lines = []
    for split, tasks in metrics["sets"].items():
        blind = [task for task, scores in tasks.items() if _is_chance(scores["cosine"])]
        if blind:
            lines.append(
                f"{split}: the teacher’s own cosine is at chance on {', '.join(blind)}. Students that learn its "
                "embeddings inherit that. A scorer of its tokens may do better: store them (embed.tokens) and fit one "
                "(relate.scorers; docs/dense.md)."
            )
    return lines


def _is_chance(accuracy: dict[str, Any]) -> bool:
    chance = accuracy["text_chance"]
    error = math.sqrt(chance * (1 - chance) / max(accuracy["questions"], 1))
    return bool(accuracy["text"] - chance <= STANDARD_ERRORS * error)


def _cosine(metrics: dict[str, Any], path: Path) -> Iterator[tuple[Cell, ...]]:
    for split, tasks in metrics["sets"].items():
        for task, scores in tasks.items():
            yield _row(split, task, ("teacher", "plain cosine"), scores["cosine"], None, path)


def _student_rows(arm: ArmResults, scorer: Path) -> Iterator[tuple[Cell, ...]]:
    name, card = scorer.name.removeprefix(PREFIX), read_scorer_card(scorer)
    scores = None if arm.card is None else read_student_scores(arm.folder, arm.card, card, name)
    if scores is None:
        return
    for whose in ("teacher's", "own"):
        part = {"sets": {split: tasks[whose] for split, tasks in scores["sets"].items()}}
        yield from _rows(part, arm.name, f"{name}, {whose}", arm.folder / f"{PREFIX}{name}.json")


def _rows(metrics: dict[str, Any], tokens: str, scorer: str, path: Path) -> list[tuple[Cell, ...]]:
    return [
        _row(split, task, (tokens, scorer), scores["scorer"], scores["blind"], path)
        for split, tasks in metrics["sets"].items()
        for task, scores in tasks.items()
    ]


def _row(  # noqa: PLR0917  a row of the table, column by column
    split: str, task: str, who: tuple[str, str], accuracy: dict[str, Any], blind: float | None, path: Path
) -> tuple[Cell, ...]:
    origin = f"{path.parent.name}/{path.name} · sets/{split}/{task}"
    values = *(accuracy[name] for name in ("text", "image", "group")), blind, accuracy["text_chance"]
    heads = (Cell(split, heading=True), Cell(task, heading=True), *(Cell(name, heading=True) for name in who))
    return (*heads, *(Cell(percent(value), origin) for value in values), Cell(f"{accuracy['questions']:,}"))
