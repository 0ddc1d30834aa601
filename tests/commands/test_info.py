"""`info` says what is there, made by what, and how big."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.info import info, print_info
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole
from tests.factories.stores import TEACHER


def test_everything_that_is_there_is_named_with_its_rows_and_size(made_project: Layout) -> None:
    result = info(made_project, ["train", "badges"])
    rows = {held.path.relative_to(made_project.root).as_posix(): held.rows for held in result.holdings}
    assert rows == {
        "data/packed/train": 80,
        "data/embeddings/train/image/view-00": 80,
        "data/embeddings/train/text": rows["data/embeddings/train/text"],
        "data/packed/badges": 40,
        "data/embeddings/badges/image/view-00": 40,
        "data/embeddings/badges/prompts": 10,
        "data/moments.h5": None,
        "data/targets/raw.h5": None,
        "data/targets/zca.h5": None,
        "data/.store": None,
    }
    images = next(held for held in result.holdings if held.path.name == "view-00")
    assert images.files == 3
    assert images.size > 80 * 24 * 4
    assert [{**facts, "versions": 0, "batch": 0} for facts in result.teachers.values()] == [
        {**TEACHER, "versions": 0, "batch": 0}
    ]


def test_it_is_printed_with_the_teacher_in_full(made_project: Layout, tmp_path: Path) -> None:
    console = PlainConsole(record=True, width=200, file=(tmp_path / "shown").open("w"))
    print_info(info(made_project, ["train"]), console)
    console.file.close()
    shown = console.export_text()
    assert "weights: " + "0" * 64 in shown
    assert "view-00" in shown
    assert "kind center" in shown


def test_a_damaged_manifest_is_said_in_its_line(project_copy: Layout) -> None:
    layout = project_copy
    for folder in (layout.packed("train"), layout.embeddings("train")):
        (folder / "manifest.json").write_text("{}")
    told = [held.made_by for held in info(layout, ["train"]).holdings]
    assert sum("manifest.json" in line for line in told) == 2


def test_an_empty_project_holds_nothing(tmp_path: Path) -> None:
    assert info(Layout(tmp_path), ["train"]).holdings == ()
