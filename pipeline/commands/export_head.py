"""Convert one head of a student of several teachers to a run of its own, a student of one teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

from cache.teachers import ENSEMBLE, teacher_names
from pipeline.evaluation.model_files import check_arm, read_arm_card
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.layout import HISTORY, Layout
from pipeline.students.checkpoint import load_student, read_card, save_student
from pipeline.students.single_head import select_head

HEAD_OF = "head_of"
"""Key in the card of such a run: the arm from which the head was taken."""


def folder_to_export(folder: Path, head: str | None, layout: Layout) -> Path:
    """Return the folder of the student to export: its own, or `runs/<arm>-<head>`, which is written from it.

    Raises:
        UsageError: no head given for a student of several teachers, an unknown head, or a head of a student of one
            teacher.
        CacheError: the student is missing or damaged.
    """
    card = read_arm_card(folder) or {}
    teacher = card.get("teacher") or {}
    if ENSEMBLE not in teacher:
        if head is not None:
            raise UsageError(
                f"--head {head}: {folder} is a student of one teacher, {teacher.get('model')}: leave it out"
            )
        return folder
    names = teacher_names(layout.embeddings("train"), teacher)
    if head not in names:
        problem = f"no head '{head}' of {', '.join(names)}{did_you_mean(head, names)}" if head else "which head?"
        raise UsageError(f"--head: {folder} is a student of {len(names)} teachers: {problem} Pass --head {names[0]}.")
    check_arm(folder, card, layout)
    out = layout.run(f"{folder.name}-{head}")
    _check_place(out, folder.name)
    single = select_head(load_student(folder), names.index(head))
    if (folder / HISTORY).exists():
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / HISTORY, out / HISTORY)
    save_student(out, single, {**single.card, HEAD_OF: f"{folder.name}, {head}"})
    return out


def _check_place(out: Path, arm: str) -> None:
    """Refuse to overwrite a run that was trained by the user."""
    if (read_arm_card(out) or {}) and not str(read_card(out).get(HEAD_OF, "")).startswith(arm):
        raise UsageError(f"{out}: holds another run. Rename or delete it, and export again.")
