"""A student's tokens under its teacher's scorer, and what report and audit say of choice sets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.reader import EmbeddingStore
from pipeline.commands.audit_choices import audit_choices, print_choices
from pipeline.commands.choose import choose
from pipeline.data.synthetic.relations import draw_relation
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole
from pipeline.relate import relate, relate_student
from pipeline.relations.params import ScorerParams
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.results import read_findings
from pipeline.reporting.sections.relations import at_chance, relation_section
from pipeline.students.checkpoint import save_student
from pipeline.students.model import Student, StudentParams
from tests.stages.test_relate import DCSM, RELATE, RUNTIME, SPLITS, embedded, packed


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two choice sets with tokens, a scorer, and a student that never learnt anything."""
    layout = Layout(tmp_path_factory.mktemp("students"))
    for split, part in SPLITS.items():
        packed(layout, split, {"source": "sample", "part": part, "images": 16})
        embedded(layout, split, format="float16")
    relate("dcsm", DCSM, RELATE, layout, RUNTIME)
    untrained(layout)
    return layout


def untrained(layout: Layout, **changes: object) -> Path:
    teacher = EmbeddingStore.open(layout.embeddings("held")).manifest.teacher
    torch.manual_seed(0)
    folder = layout.model("resnet-tiny", "scale")
    card = {"teacher": teacher, "image_size": 64, "target": "scale", **changes}
    save_student(folder, Student("resnet-tiny", StudentParams(), 96), card)
    return folder


def test_a_students_tokens_are_scored_by_its_teachers_scorer_and_by_one_of_their_own(project: Layout) -> None:
    path = relate_student("dcsm", RELATE, project.model("resnet-tiny", "scale"), project, RUNTIME)
    tasks = json.loads(path.read_text())["sets"]["held"]
    assert set(tasks) == {"teacher's", "own"}
    assert tasks["teacher's"]["place"]["scorer"]["questions"] == 4
    teacher = json.loads((project.scorer("dcsm") / "metrics.json").read_text())["sets"]["held"]
    # Both sides answer the same questions, by other tokens.
    assert tasks["teacher's"]["place"]["cosine"] != teacher["place"]["cosine"] or tasks["teacher's"] != teacher


def test_a_scorer_of_another_teacher_is_refused_for_a_student(project: Layout) -> None:
    folder = untrained(project, teacher={"model": "somebody"})
    with pytest.raises(UsageError, match=r"scorer 'dcsm' is fitted on .*sample-teacher, and .* another teacher"):
        relate_student("dcsm", RELATE, folder, project, RUNTIME)
    untrained(project)


def test_the_report_has_a_section_only_where_there_are_scorers(project: Layout, tmp_path: Path) -> None:
    arms = [("resnet-tiny", "scale")]
    relate_student("dcsm", RELATE, untrained(project), project, RUNTIME)
    section = relation_section(ReportInputs(read_findings(arms, [], [], project), 0, 64))
    assert section is not None
    rows = [[cell.text for cell in row] for row in section.blocks[0].rows]  # type: ignore[union-attr]
    assert {(row[2], row[3]) for row in rows} == {
        ("teacher", "plain cosine"),
        ("teacher", "dcsm"),
        ("resnet-tiny-scale", "dcsm, teacher's"),
        ("resnet-tiny-scale", "dcsm, own"),
    }
    assert {row[1] for row in rows} == {"binding", "place", "negation", "number"}
    assert relation_section(ReportInputs(read_findings(arms, [], [], Layout(tmp_path)), 0, 64)) is None


def test_audit_says_where_cosine_is_at_chance(project: Layout) -> None:
    found = audit_choices(["held"], project, RUNTIME)
    console = PlainConsole(record=True, width=120, file=io.StringIO())
    print_choices(found, console)
    text = console.export_text()
    assert "plain cosine on choice sets" in text
    assert "at chance on" in text
    # The control: a set on which cosine is right every time has no such line.
    sure = {"sets": {"held": {"place": {"cosine": {"text": 1.0, "text_chance": 0.5, "questions": 100}}}}}
    assert at_chance(sure) == []


def test_a_scorer_that_needs_no_tokens_is_fitted_for_students_too(project: Layout) -> None:
    relate("labclip", ScorerParams(kind="labclip", epochs=1), RELATE, project, RUNTIME)
    path = relate_student("labclip", RELATE, untrained(project), project, RUNTIME)
    assert np.isfinite(json.loads(path.read_text())["sets"]["held"]["own"]["number"]["scorer"]["text"])


def test_choose_ranks_captions_of_the_cache_for_a_picture_of_anybodys(project: Layout, tmp_path: Path) -> None:
    image, scene = draw_relation("relations-val", 0)
    Image.fromarray(image).save(tmp_path / "mine.png")
    folder = untrained(project)
    (found,) = choose(
        [tmp_path / "mine.png"], [scene.caption, scene.foil], "dcsm", folder, splits=["held"], layout=project
    )
    assert {caption for caption, _ in found.scores} == {scene.caption, scene.foil}
    assert found.scores[0][1] >= found.scores[1][1]
    assert found.cosine in found.line
    with pytest.raises(UsageError, match=r"no choice set \(held\) has all of"):
        choose(
            [tmp_path / "mine.png"],
            [scene.caption, "what nobody said"],
            "dcsm",
            folder,
            splits=["held"],
            layout=project,
        )
    with pytest.raises(UsageError, match="expected at least two captions"):
        choose([tmp_path / "mine.png"], [scene.caption], "dcsm", folder, splits=["held"], layout=project)
