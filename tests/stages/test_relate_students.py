"""A student's tokens under its teacher's scorer, and what report and audit say of choice sets."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import CacheError, MissingError, StaleError
from cache.reader import EmbeddingStore
from pipeline.commands.audit_choices import audit_choices, print_choices
from pipeline.commands.choose import choose
from pipeline.commands.verify import verify
from pipeline.data.synthetic.relations import draw_relation
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole
from pipeline.relate import relate, relate_student
from pipeline.relations.params import ScorerParams
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.page import ReportSection
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


def test_a_students_folder_under_another_name_is_refused(scored: Layout) -> None:
    """Else scores of one student would stand in the folder of another one."""
    folder = scored.models / "resnet-tiny-zca"
    (scored.models / "resnet-tiny-scale").rename(folder)
    message = "holds the arm 'resnet-tiny-scale': it was renamed or copied"
    with pytest.raises(StaleError, match=message):
        relate_student("dcsm", RELATE, folder, scored, RUNTIME)
    with pytest.raises(StaleError, match=message):
        choose([], ["a", "b"], "dcsm", folder, splits=["held"], layout=scored)


ARM = [("resnet-tiny", "scale")]
SCORES = (
    "relate-dcsm/metrics.json",
    "relate-dcsm/evaluation.json",
    "relate-dcsm/scorer.json",
    "relate-dcsm/history.csv",
    "resnet-tiny-scale/relate-dcsm.json",
)


def section_of(layout: Layout) -> ReportSection | None:
    return relation_section(ReportInputs(read_findings(ARM, [], [], layout), 0, 64))


@pytest.fixture(scope="module")
def original(project: Layout, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A copy of the project in which the student is scored. Do not change it: `scored` is a copy of it."""
    layout = Layout(Path(shutil.copytree(project.root, tmp_path_factory.mktemp("scored") / "project")))
    relate_student("dcsm", RELATE, untrained(layout), layout, RUNTIME)
    return layout


@pytest.fixture
def scored(original: Layout, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(original.root, tmp_path / "copy")))


@pytest.mark.parametrize("name", SCORES)
def test_a_flipped_bit_in_scores_of_relations_is_named_by_report_and_verify(scored: Layout, name: str) -> None:
    path, random = scored.models / name, np.random.default_rng(0)
    whole = path.read_bytes()
    for place in (0, random.integers(len(whole)), len(whole) - 1):
        flipped = whole[:place] + bytes([whole[place] ^ 1 << random.integers(8)]) + whole[place + 1 :]
        for damaged in (flipped, whole[:place]):
            path.write_bytes(damaged)
            assert any(path.name in fault for fault in verify(scored).faults)
            if path.name != "history.csv":  # the report does not show how a scorer was fitted
                with pytest.raises(CacheError, match=path.name):
                    section_of(scored)
    path.write_bytes(whole)
    assert verify(scored).faults == []  # Negative control.
    assert section_of(scored) is not None


@pytest.mark.parametrize("name", ["history.csv", "scorer.json", "scorer.safetensors"])
def test_a_flipped_bit_in_the_scorer_that_was_fitted_on_a_student_is_named_by_verify(scored: Layout, name: str) -> None:
    path = scored.models / "resnet-tiny-scale" / "relate-dcsm" / name
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        for damaged in (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole[:place]):
            path.write_bytes(damaged)
            assert any(path.name in fault for fault in verify(scored).faults)
    path.write_bytes(whole)
    assert verify(scored).faults == []  # Negative control.


@pytest.mark.parametrize("name", SCORES[:4])
def test_relate_makes_what_is_missing_or_damaged_again_to_the_same_bytes(scored: Layout, name: str) -> None:
    path = scored.models / name
    whole = path.read_bytes()
    for harm in (path.unlink, lambda: path.write_bytes(whole[:-2] + b"7\n")):
        harm()
        relate("dcsm", DCSM, RELATE, scored, RUNTIME)
        assert path.read_bytes() == whole


def test_scores_of_another_student_scorer_or_name_are_refused(scored: Layout) -> None:
    path = scored.models / SCORES[-1]
    shutil.copy(path, path.with_name("relate-late.json"))
    assert [fault for fault in verify(scored).faults if "scores of 'dcsm': it was renamed" in fault]
    path.with_name("relate-late.json").unlink()
    relate("dcsm", DCSM.model_copy(update={"seed": 1}), RELATE, scored, RUNTIME)
    with pytest.raises(StaleError, match=r"relate-dcsm\.json: of scorer \w{12}, but its card is of \w{12}\. Run"):
        section_of(scored)
    relate("dcsm", DCSM, RELATE, scored, RUNTIME)
    assert verify(scored).faults == []
    value = read_checksummed_json(path)
    write_checksummed_json(path, {**value, "student_sha256": "0" * 64})
    with pytest.raises(StaleError, match="of student 000000000000"):
        section_of(scored)


def test_a_scorers_folder_under_another_name_and_metrics_without_their_list_are_refused(scored: Layout) -> None:
    shutil.copytree(scored.scorer("dcsm"), scored.scorer("late"))
    message = "relate-late: holds 'relate-dcsm': it was renamed or copied"
    with pytest.raises(StaleError, match=message):
        section_of(scored)
    assert any(message in fault for fault in verify(scored).faults)
    shutil.rmtree(scored.scorer("late"))
    (scored.models / "relate-dcsm" / "evaluation.json").unlink()
    with pytest.raises(MissingError, match=r"evaluation.json: missing, though metrics.json is there. Run `relate`"):
        section_of(scored)


def test_the_report_has_a_section_only_where_there_are_scorers(project: Layout, tmp_path: Path) -> None:
    relate_student("dcsm", RELATE, untrained(project), project, RUNTIME)
    section = section_of(project)
    assert section is not None
    rows = [[cell.text for cell in row] for row in section.blocks[0].rows]  # type: ignore[union-attr]
    assert {(row[2], row[3]) for row in rows} == {
        ("teacher", "plain cosine"),
        ("teacher", "dcsm"),
        ("resnet-tiny-scale", "dcsm, teacher's"),
        ("resnet-tiny-scale", "dcsm, own"),
    }
    assert {row[1] for row in rows} == {"binding", "place", "negation", "number"}
    assert section_of(Layout(tmp_path)) is None


def test_audit_says_where_cosine_is_at_chance(project: Layout) -> None:
    found = audit_choices(["held"], project, RUNTIME)
    console = PlainConsole(record=True, width=120, file=io.StringIO())
    print_choices(found, console)
    text = console.export_text()
    assert "plain cosine on choice sets" in text
    assert "at chance on" in text
    assert "inherit that. A scorer of its tokens may do better: store them (embed.tokens)" in " ".join(text.split())
    # The control: of 100 questions 59 right are chance, 61 are not.
    scores = {"place": 0.59, "negation": 0.61, "binding": 0.3}
    tasks = {task: {"cosine": {"text": x, "text_chance": 0.5, "questions": 100}} for task, x in scores.items()}
    assert "is at chance on place, binding. Students" in at_chance({"sets": {"held": tasks}})[0]
    assert at_chance({"sets": {"held": {"negation": tasks["negation"]}}}) == []


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
