"""A colleague's machine: clone, `dvc pull`, distill and evaluate, without teacher, source images or internet."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.factories.dvc_project import DvcProject
from tests.factories.object_storage import BUCKET, S3Server, environment

pytestmark = pytest.mark.process
ARM = "--student test_resnet --target zca"
OUTS = ["student.safetensors", "student.json", "history.csv", "metrics.json", "evaluation.json"]
NO_INTERNET = """
import socket

def refuse(self, address):
    raise OSError(f"this machine has no network: {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def files(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and ".store" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def shared(finished_project: DvcProject, tmp_path: Path) -> DvcProject:
    """A finished project whose parameters and lock are in git, and whose cache was pushed to a folder."""
    project = finished_project.copy(tmp_path / "project")
    project.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    git(project.folder, "add", "-A")
    git(project.folder, "commit", "-qm", "finished")
    project.run("dvc", "push")
    return project


def clone(project: DvcProject, folder: Path) -> DvcProject:
    git(project.folder, "clone", "-q", str(project.folder), str(folder))
    return DvcProject(folder)


def cut_off(project: DvcProject, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Leave a machine without teacher weights, without the code that draws the sample, and without a network."""
    for path in (project.folder / "presets/sample-teacher", project.folder / "pipeline/data/synthetic"):
        shutil.rmtree(path)
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_INTERNET)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_clone_distills_and_evaluates_from_the_pulled_cache_alone_to_the_same_bytes(
    shared: DvcProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colleague = clone(shared, tmp_path / "clone")
    assert not (colleague.folder / "data").exists()
    colleague.run("dvc", "pull")
    pulled = colleague.folder / "data"
    assert files(pulled / "embeddings") == files(shared.folder / "data/embeddings")
    shutil.rmtree(colleague.folder / "models")
    shutil.rmtree(tmp_path / "remote")
    cut_off(colleague, monkeypatch, tmp_path / "site")
    # The last command is a negative control: the same machine can neither embed nor reach anything.
    embed = "embed --split val --set embed.views.seed=1"
    with pytest.raises(AssertionError, match="sample-teacher"):
        colleague.cli_in_turn(f"distill {ARM}", f"evaluate {ARM}", embed, python=sys.executable)
    arm = "models/test_resnet-zca"
    made, before = ((folder / arm) for folder in (colleague.folder, shared.folder))
    assert [name for name in OUTS if (made / name).read_bytes() != (before / name).read_bytes()] == []
    program = "import socket; socket.create_connection(('127.0.0.1', 9))"
    assert "no network" in colleague.run(sys.executable, "-c", program, check=False).stderr


def test_a_cache_that_was_pushed_to_s3_is_pulled_whole(
    shared: DvcProject, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(s3_server.address).items():
        monkeypatch.setenv(name, value)
    shared.run("dvc", "remote", "add", "--default", "--force", "team", f"s3://{BUCKET}/dvc")
    git(shared.folder, "commit", "-qam", "the cache lies in object storage")
    shared.run("dvc", "push")
    colleague = clone(shared, tmp_path / "clone")
    colleague.run("dvc", "pull", "embed", "moments", "whiten")
    assert files(colleague.folder / "data/embeddings") == files(shared.folder / "data/embeddings")
    assert files(colleague.folder / "data/targets") == files(shared.folder / "data/targets")
    configured = (colleague.folder / ".dvc/config").read_text(encoding="utf-8")
    assert not any(value in configured for value in environment("").values() if value and "us-east" not in value)


def test_the_documentation_shows_it_as_five_lines() -> None:
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    section = text.partition("## A colleague's machine")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```\n(.*?)```", section, flags=re.DOTALL)
    commands = [line.partition("#")[0].split() for line in block.splitlines()]
    assert [" ".join(words[:3]) for words in commands] == [
        "dvc remote add",
        "git clone URL",
        "dvc pull",
        "python cli.py distill",
        "python cli.py evaluate",
    ]
