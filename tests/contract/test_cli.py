"""The command line answers at once, reads like a manual, and says what was wrong in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.factories.fork_server import programs

COMMANDS = ["index", "pack", "embed", "moments", "whiten", "distill", "evaluate", "report"]
COMMANDS += ["plan", "results", "audit", "compare", "verify", "info", "gc", "export", "predict", "search", "profile"]
COMMANDS += ["export-embeddings", "import"]
HEAVY = ["torch", "open_clip", "timm", "h5py", "dask", "sklearn", "matplotlib", "numpy"]


def cli(*arguments: object, cwd: Path = ROOT, python: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [python or str(programs() / "python"), str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def plain(text: str) -> str:
    """Strip ANSI codes and the boxes around help, whose look varies by version."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of the default params, with every source moved to a folder of the test."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["index"]["train"] = {
        "source": "coco",
        "images": str(tmp_path / "images"),
        "captions": str(tmp_path / "captions.json"),
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def refused(params: Path, *arguments: object) -> str:
    """Run a command that must fail with exit code 2 and one line, and must leave nothing behind."""
    root = params.parent / "project"
    made = cli(*arguments, "--params", params, "--root", root)
    assert made.returncode == 2, made.stderr
    assert made.stderr.startswith("error: ")
    assert made.stderr.count("\n") == 1
    assert [p for p in root.rglob("*") if p.is_file() and p.name != "lock"] == []
    return made.stderr


def test_the_version_is_the_packages() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cli("--version").stdout.strip() == f"{project['name']} {project['version']}"


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    probe = f"import sys; sys.argv=['cli.py']; import cli; print([m for m in {HEAVY} if m in sys.modules])"
    made = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
    shown = plain(cli("--help", python=sys.executable).stdout)
    assert [name for name in COMMANDS if f" {name} " not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_page_of_its_own(command: str) -> None:
    made = cli(command, "--help")
    assert made.returncode == 0
    shown = plain(made.stdout)
    assert "--params" in shown
    assert "--set" in shown
    assert "--root" in shown


def test_an_unknown_command_or_option_is_wrong_usage() -> None:
    assert cli("embedd", python=sys.executable).returncode == 2
    assert cli("embed", "--splitt", "train").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "--split", "trian"], "'trian' is not in index.splits [train, val, badges]; did you mean 'train'?"),
        (["whiten", "--target", "zcaa"], "did you mean 'zca'"),
        (["whiten", "--target", "zca", "--set", "whiten.zca.flor=1"], "did you mean 'floor'?"),
        (["whiten", "--target", "zca", "--set", "whiten.zca.floor=big"], "'whiten.zca.floor'"),
        (["whiten", "--target", "zca", "--set", "whiten.zca.method=zcca"], "'whiten.zca.method'"),
        (["distill", "--target", "zca", "--student", "mobilnetv3"], "mobilenetv3"),
        (["distill", "--target", "zca", "--set", "distill.training.epochs=many"], "'distill.training.epochs'"),
        (["distill", "--name", "mine"], "Pass --student and --target."),
        (["index", "--set", "index.splits=train"], "expected a list of names"),
        (["index", "--set", "nonsense"], "expected section.key=value"),
    ],
)
def test_a_wrong_name_key_or_value_is_one_line_and_exit_code_2(
    params: Path, arguments: list[str], message: str
) -> None:
    assert message in refused(params, *arguments)


def test_another_python_than_the_environments_is_told_in_one_line(tmp_path: Path) -> None:
    """As `.venv/bin/dvc repro` meets it, which runs whatever `python` the path leads to."""
    command = [sys.executable, "-I", "-S", str(ROOT / "cli.py"), "index"]  # without site-packages
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 2
    assert made.stderr.startswith(f"error: {sys.executable}: no module named 'typer'. Activate the environment")
    assert made.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 5000])
def test_a_root_that_can_be_no_folder_is_refused(params: Path, place: str) -> None:
    (params.parent / "file").write_text("")
    made = cli("info", "--params", params, "--root", params.parent / place)
    assert made.returncode == 2
    assert made.stderr.startswith("error: --root ")
    assert made.stderr.count("\n") == 1


def test_a_root_that_is_a_url_makes_no_folder_of_its_name(params: Path) -> None:
    made = cli("index", "--params", params, "--root", "s3://bucket/project", cwd=params.parent)
    assert (made.returncode, made.stderr.count("\n")) == (2, 1)
    assert "'root': expected a path of a file system, found a URL (s3://" in made.stderr
    assert not (params.parent / "s3:").exists()


def test_usage_that_the_parser_refuses_is_one_line_too() -> None:
    for arguments in (
        ["embedd"],
        ["embed", "--splitt", "train"],
        ["predict", "x.jpg", "--labels", "a", "--top", "0"],
        ["search", "words", "--top", "0"],
        ["predict"],
        ["export", "--student"],
    ):
        made = cli(*arguments)
        assert made.returncode == 2
        assert made.stderr.startswith("error: ")
        assert made.stderr.count("\n") == 1


def test_a_missing_image_folder_is_named(params: Path) -> None:
    assert str(params.parent / "images") in refused(params, "index", "--split", "train")


def test_an_empty_image_folder_is_named(params: Path) -> None:
    (params.parent / "images").mkdir()
    (params.parent / "captions.json").write_text('{"images": [], "annotations": []}')
    assert str(params.parent / "images") in refused(params, "index", "--split", "train")


def test_captions_of_images_that_are_not_there_are_refused_by_name(params: Path) -> None:
    images = params.parent / "images"
    images.mkdir()
    (images / "other.jpg").write_bytes(b"x")
    captions = '{"images": [{"id": 1, "file_name": "gone.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}'
    (params.parent / "captions.json").write_text(captions)
    assert "gone.jpg" in refused(params, "index", "--split", "train")
