"""The walk-through of the docs walks: every command in it runs, in its order, on a small drawn set."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline.commands import plan_measurements
from pipeline.data.synthetic.world import BADGES, render_image
from tests import ROOT
from tests.factories.dvc_project import DvcProject, lay_out_dvc_project

PAGE = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
SMALL: dict[str, Any] = {
    "runtime": {"workers": 0, "teacher_batch": 16},
    "pack": {"shard_rows": 20},
    "embed": {"teacher": {"model": "local-dir:presets/sample-teacher", "pretrained": None}},
    "distill": {"training": {"epochs": 1, "batch": 16, "image_size": 32}},
}
"""What makes the page's run small: a teacher that is here, one short epoch of small pictures."""


def blocks(language: str) -> list[str]:
    """Return the page's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.S)


def commands() -> Iterator[str]:
    """Yield the commands of the page, those after a prompt in its consoles."""
    for block in blocks("console"):
        yield from (line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the changes of some of its sections."""
    found = dict(document)
    for key, value in changes.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and "source" not in value:
            value = merged(old, value)  # noqa: PLW2901  a section within a section
        found[key] = value
    return found


def draw_pictures(folder: Path) -> None:
    """Draw photos with captions, some of them for validation, and badges in a folder a kind."""
    (folder / "photos").mkdir()
    rows: dict[str, list[tuple[str, str]]] = {"captions.csv": [], "captions-val.csv": []}
    for number in range(1, 57):
        scene = render_image("train" if number <= 40 else "val", number)
        Image.fromarray(scene.image).save(folder / "photos" / f"{number:04d}.jpg", quality=95)
        table = "captions.csv" if number <= 40 else "captions-val.csv"
        rows[table] += [(f"{number:04d}.jpg", caption) for caption in scene.captions]
    for name, pairs in rows.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption"), *pairs])
    for number in range(30):
        badge = render_image("badges", number)
        kind = folder / "kinds" / BADGES[badge.label or 0]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(badge.image).save(kind / f"{number}.png")


def run(project: DvcProject, command: str) -> str:
    """Run a command of the page in a project, one of ours in this process, and return what it says."""
    program, *arguments = shlex.split(command)
    if (program, arguments[:1]) != ("python", ["cli.py"]):
        made = project.run(program, *arguments)
        return made.stdout + made.stderr
    return project.cli_here(*arguments[1:])


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[DvcProject, dict[str, str]]:
    """The page's project after its last command, and what each command said."""
    project = lay_out_dvc_project(tmp_path_factory.mktemp("walk"))
    draw_pictures(project.folder)
    first, *others = commands()
    run(project, first)
    (edits,) = blocks("yaml")
    document = yaml.safe_load(project.params.read_text(encoding="utf-8"))
    document = merged(merged(document, yaml.safe_load(edits)), SMALL)
    project.params.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:  # `plan` measures the first batches only
        patch.setattr(plan_measurements, "TEACHER_SECONDS", 0.0)
        patch.setattr(plan_measurements, "STUDENTS_SECONDS", 0.0)
        return project, {command: run(project, command) for command in others}


def test_every_command_of_the_page_runs_in_its_order(walked: tuple[DvcProject, dict[str, str]]) -> None:
    _, said = walked
    assert [command.split()[2] for command in said if "cli.py" in command][:6] == [
        "index", "plan", "pack", "embed", "moments", "whiten",
    ]  # fmt: skip
    assert len(said) >= 18
    assert [command for command, words in said.items() if "Traceback" in words or "error:" in words] == []


def test_what_the_page_names_is_there_at_the_end(walked: tuple[DvcProject, dict[str, str]]) -> None:
    project, _ = walked
    named = set(re.findall(r"`((?:data|report|exports)/[\w./-]+\.\w+)`", PAGE))
    named |= {"strip.html", "sheet.html", "exports/mobilenetv3-scale/example.py", "exports/mobilenetv3-scale.html"}
    assert "report/index.html" in named
    assert [name for name in sorted(named) if not (project.folder / name).exists()] == []


def test_the_messages_that_the_page_explains_are_said(walked: tuple[DvcProject, dict[str, str]]) -> None:
    _, said = walked
    everything = "\n".join(said.values())
    for words in (
        "in all on this machine (cpu",
        "that fits into 1.0 h",
        "the small eigenvalues are mostly noise",
        "The teacher scores",
        "Running stage 'distill@mobilenetv3-scale'",
    ):
        assert words in everything
    assert "in all on this machine (cpu" in PAGE
