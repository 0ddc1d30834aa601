"""What several teachers are worth together, from the cache alone: ceilings, and how much of each other they explain."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cache.teachers import teacher_folders
from pipeline.evaluation.teacher_comparison import TeacherComparison, compare_teachers
from pipeline.project.layout import Layout
from pipeline.project.runtime import Runtime
from pipeline.project.terminal import PlainConsole
from pipeline.whitening.moments_file import load_moments


def audit_teachers(
    zero_shot: Sequence[str], floor: float, layout: Layout, runtime: Runtime
) -> TeacherComparison | None:
    """Compare the teachers of a project; nothing where there is one.

    Raises:
        CacheError: embeddings or moments are missing, damaged or of other teachers.
    """
    if len(teacher_folders(layout.embeddings("train"))) < 2:
        return None
    return compare_teachers(load_moments(layout.moments), zero_shot, floor, layout, runtime)


def print_teachers(found: TeacherComparison, console: PlainConsole) -> None:
    """Print each one's ceiling beside the ensembles', what each explains of the others, and what follows."""
    columns = {(split, rule): None for each in found.ceilings for split in each.scores for rule in each.scores[split]}
    table = Table(box=None, pad_edge=False, title="ceilings of the teachers, in %", title_justify="left")
    table.add_column("teacher")
    for split, rule in columns:
        table.add_column(f"{split}, {rule}", justify="right")
    for each in found.ceilings:
        scores = (each.scores.get(split, {}).get(rule) for split, rule in columns)
        table.add_row(each.name, *("–" if score is None else f"{100 * score:.1f}" for score in scores))
    console.print(table)
    pairs = Table(box=None, pad_edge=False, title="what one says of another's images", title_justify="left")
    for name in ("of", "by", "R²", "linear CKA"):
        pairs.add_column(name, justify="right" if name[0] in "Rl" else "left")
    for one in found.explained:
        pairs.add_row(one.target, one.source, f"{one.r2:.2f}", f"{one.cka:.2f}")
    console.print(pairs)
    for line in found.advice():
        console.print(line, soft_wrap=True)
