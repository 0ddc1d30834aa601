"""The teacher is gone after `embed`: stage two neither imports it, nor builds it, nor reads its files."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests import ROOT
from tests.factories.dvc_project import DvcProject

DOWNSTREAM = ["moments", "whiten", "distill", "relate", "evaluate", "report"]

BROKEN_FACTORY = """
import runpy, sys
import open_clip, open_clip.factory
def refuse(*arguments, **options):
    raise RuntimeError("the teacher was asked for")
for module in (open_clip, open_clip.factory):
    for name in ("create_model", "create_model_and_transforms", "create_model_from_pretrained", "load_checkpoint"):
        if hasattr(module, name):
            setattr(module, name, refuse)
sys.argv = ["cli.py", *sys.argv[1:]]
runpy.run_path("cli.py", run_name="__main__")
"""


def loads(module: str, statement: str) -> bool:
    """Return whether a fresh interpreter has loaded a module after a statement."""
    probe = f"import sys; {statement}; print('{module}' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    return made.stdout.split()[-1] == "True"


@pytest.mark.parametrize("stage", DOWNSTREAM)
def test_importing_a_stage_after_embed_does_not_import_open_clip(stage: str) -> None:
    assert not loads("open_clip", f"import pipeline.{stage}")


@pytest.mark.parametrize("stage", ["index", "pack", "moments", "whiten"])
def test_a_stage_that_trains_nothing_does_not_import_torch(stage: str) -> None:
    assert not loads("torch", f"import pipeline.{stage}")


def test_the_probe_sees_open_clip_when_it_is_imported() -> None:
    assert loads("open_clip", "import open_clip")
    assert loads("torch", "import pipeline.distill")


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
    for arguments in (
        ["moments"],
        ["whiten"],
        ["distill", "--student", "mobilenetv3"],
        ["evaluate", "--student", "mobilenetv3"],
        ["report"],
    ):
        orphaned_project.run(sys.executable, "-c", BROKEN_FACTORY, *arguments)
    assert (orphaned_project.folder / "models" / "mobilenetv3-zca" / "metrics.json").exists()
    assert (orphaned_project.folder / "report" / "index.html").exists()


def test_embed_in_the_same_world_does_ask_for_the_teacher(orphaned_project: DvcProject) -> None:
    """Negative control: with the files back and the factory still broken, `embed` must fail."""
    shutil.copytree(ROOT / "presets", orphaned_project.folder / "presets", dirs_exist_ok=True)
    made = orphaned_project.run(sys.executable, "-c", BROKEN_FACTORY, "embed", "--split", "val", check=False)
    assert made.returncode != 0
    assert "the teacher was asked for" in made.stderr
