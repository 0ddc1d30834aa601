"""Export one or two students as one HTML page that runs in a browser, offline."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.manifest import NAME
from pipeline.commands.export import ExportOptions, export
from pipeline.deployment.labels import DEFAULT_SCALE, Labels, known_labels, resolve_labels
from pipeline.deployment.onnx_session import open_session, parity
from pipeline.deployment.predictor import open_model
from pipeline.deployment.web.demo_page import BrowserStudent, BrowserTextTower, DemoPage, render_demo
from pipeline.deployment.web.gallery import build_gallery
from pipeline.deployment.web.text_graph import TOKENS, quantize_text_onnx, write_text_onnx
from pipeline.evaluation.model_files import check_arm
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.reporting.page import style
from pipeline.reporting.page_files import save_page
from pipeline.students.checkpoint import load_student
from pipeline.students.inference import embed_texts
from pipeline.students.model import Student
from pipeline.students.text_tower import TextTower, tokenize, tokenizer_merges

GALLERY_SPLIT = "val"
TEXT_BAR = 0.99
"""Mean cosine of an 8-bit text tower with the float one, below which the page gets the float one."""
TEXT_FLOAT_BAR = 0.99999
CHECKED_TEXTS = (
    "a photo of a cat.",
    "two people ride bicycles along the river",
    "a red circle on a blue square",
    "the old town at night",
    "an astronaut",
    "a plate of noodles with vegetables and a fork",
)
"""Texts on which the graph of a text tower is compared with the tower."""


@dataclass(frozen=True)
class WebExport:
    """A written HTML page."""

    path: Path
    students: tuple[str, ...]

    @property
    def line(self) -> str:
        """Return one line for the terminal."""
        return f"{self.path}: {self.path.stat().st_size / 1e6:.2f} MB, {' and '.join(self.students)}: open it"


def export_web(
    folders: Sequence[Path],
    out: Path | None,
    layout: Layout,
    runtime: Runtime,
    *,
    labels: str | None = None,
    zero_shot: Sequence[str] = (),
    int8: bool = False,
    gallery: int = 120,
) -> WebExport:
    """Write the page after comparing each model with its student; if they differ, nothing is written.

    The default of `labels` is the first zero-shot set embedded by the same teacher.

    Raises:
        UsageError: more than two students, students of two teachers, or labels that were never embedded.
        CacheError: a student, or the validation images for the comparison, are missing or damaged.
        PipelineError: an exported model differs from its student.
    """
    if not 1 <= len(folders) <= 2:
        names = ", ".join(folder.name for folder in folders)
        raise UsageError(
            f"export --web: one or two students go on a page, found {len(folders)} ({names}). "
            "Pass --student, once or twice, and --target."
        )
    students = [load_student(folder) for folder in folders]
    for folder, student in zip(folders, students, strict=True):
        check_arm(folder, student.card, layout)
    teacher = _teacher(students)
    prepared = [_prepare(f, s, int8, layout, runtime) for f, s in zip(folders, students, strict=True)]
    page = DemoPage(
        tuple(prepared),
        str(teacher["model"]),
        float(teacher.get("logit_scale", DEFAULT_SCALE)),
        _labels(labels, zero_shot, folders, layout),
        build_gallery(GALLERY_SPLIT, gallery, layout) if gallery else None,
        tokenizer_merges() if any(s.text for s in prepared) else "",
    )
    path = out or layout.exports / f"{'+'.join(folder.name for folder in folders)}.html"
    save_page(path, render_demo(page, style()))
    return WebExport(path, tuple(student.name for student in prepared))


def _teacher(students: Sequence[Student]) -> dict[str, Any]:
    facts: list[dict[str, Any]] = [student.card["teacher"] for student in students]  # type: ignore[misc]  # a card is JSON
    if any(teacher != facts[0] for teacher in facts):
        models = " and ".join(str(teacher.get("model")) for teacher in facts)
        raise UsageError(f"export --web: the students learned from two teachers, {models}: they share no embeddings")
    return facts[0]


def _prepare(folder: Path, student: Student, int8: bool, layout: Layout, runtime: Runtime) -> BrowserStudent:
    with tempfile.TemporaryDirectory() as temporary:
        form = ExportOptions(int8=int8)
        exported = export(folder, Path(temporary) / "image", form, layout, runtime)
        text = None if student.text is None else _text_tower(student, student.text, Path(temporary))
        onnx = (exported.folder / form.file).read_bytes()
    card: dict[str, Any] = student.card
    return BrowserStudent(folder.name, onnx, card["image_size"], card["parameters"], text)


def _text_tower(student: Student, tower: TextTower, folder: Path) -> BrowserTextTower:
    """Return the text tower in 8 bits, or in float if 8 bits change its embeddings by more than the tolerance."""
    plain, small = folder / "text.onnx", folder / "text-int8.onnx"
    write_text_onnx(plain, tower)
    tokens, expected = tokenize(CHECKED_TEXTS, tower.context), embed_texts(student, CHECKED_TEXTS)
    cosine = _cosine(plain, tokens, expected)
    if cosine < TEXT_FLOAT_BAR:
        raise PipelineError(
            f"{student.name}: its text tower as ONNX is at cosine {cosine:.5f} of itself: nothing was "
            "exported. Export without --web, or tell us which model it is."
        )
    quantize_text_onnx(plain, small)
    path = small if _cosine(small, tokens, expected) >= TEXT_BAR else plain
    return BrowserTextTower(path.read_bytes(), tower.context)


def _cosine(path: Path, tokens: np.ndarray, expected: np.ndarray) -> float:
    return parity(open_session(path).run(None, {TOKENS: tokens})[0], expected).mean_cosine


def _labels(request: str | None, zero_shot: Sequence[str], folders: Sequence[Path], layout: Layout) -> Labels | None:
    model = open_model(folders[0])
    if request:
        return resolve_labels(request, zero_shot, layout, model)
    embedded = [split for split in zero_shot if (layout.embeddings(split) / NAME).exists()]
    others = known_labels(embedded, layout, model.teacher).other_teacher_splits
    usable = [split for split in embedded if split not in others]
    return resolve_labels(usable[0], zero_shot, layout, model) if usable else None
