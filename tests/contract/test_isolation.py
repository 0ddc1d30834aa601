"""The teacher is gone after `embed`: stage two neither imports it, nor builds it, nor reads its files.

What trains nothing does not import torch either, and starts two seconds sooner.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests import ROOT
from tests.factories.dvc_project import DvcProject

WITHOUT_TORCH = ["index", "pack", "data.sources.registry", "moments", "whiten", "commands.audit"]
WITHOUT_TEACHER = ["distill", "relate", "evaluate", "report"]

BROKEN_FACTORY = """
import open_clip, open_clip.factory
def refuse(*arguments, **options):
    raise RuntimeError("the teacher was asked for")
for module in (open_clip, open_clip.factory):
    for name in ("create_model", "create_model_and_transforms", "create_model_from_pretrained", "load_checkpoint"):
        if hasattr(module, name):
            setattr(module, name, refuse)
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Return what a new interpreter that imports one module after the other has loaded after each of them."""
    order = [*(f"pipeline.{name}" for name in WITHOUT_TORCH + WITHOUT_TEACHER), "open_clip"]
    probe = "import sys\nfor name in sys.argv[1:]:\n    __import__(name)\n    print(*sys.modules)"
    command = [sys.executable, "-c", probe, *order]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: set(line.split()) for name, line in zip(order, lines, strict=True)}


def test_importing_a_stage_after_embed_does_not_import_open_clip(loaded: dict[str, set[str]]) -> None:
    assert [name for name, modules in loaded.items() if "open_clip" in modules] == ["open_clip"]


def test_what_trains_nothing_does_not_import_torch_and_the_probe_sees_a_stage_that_does(
    loaded: dict[str, set[str]],
) -> None:
    assert [name for name in WITHOUT_TORCH if "torch" in loaded[f"pipeline.{name}"]] == []
    assert "torch" in loaded["pipeline.distill"]


@pytest.fixture(scope="module")
def orphaned_project(finished_project: DvcProject, tmp_path_factory: pytest.TempPathFactory) -> DvcProject:
    """A finished project whose teacher's files are deleted and whose students are forgotten."""
    project = finished_project.copy(tmp_path_factory.mktemp("orphan") / "project")
    shutil.rmtree(project.folder / "presets")
    for folder in ("models", "report"):
        shutil.rmtree(project.folder / folder)
    for path in (project.folder / "data" / ".store").glob("distill-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return project


def test_stage_two_works_with_the_teacher_deleted_and_its_factory_broken(orphaned_project: DvcProject) -> None:
    student = "--student mobilenetv3"
    commands = ("moments", "whiten", f"distill {student}", f"evaluate {student}", "report")
    orphaned_project.cli_in_turn(*commands, before=BROKEN_FACTORY)
    assert (orphaned_project.folder / "models" / "mobilenetv3-zca" / "metrics.json").exists()
    assert (orphaned_project.folder / "report" / "index.html").exists()


def test_embed_in_the_same_world_does_ask_for_the_teacher(orphaned_project: DvcProject) -> None:
    """Negative control: with the files back and the factory still broken, `embed` must fail."""
    shutil.copytree(ROOT / "presets", orphaned_project.folder / "presets", dirs_exist_ok=True)
    with pytest.raises(AssertionError, match="the teacher was asked for"):
        orphaned_project.cli_in_turn("embed --split val", before=BROKEN_FACTORY)
