"""What README and docs say can be checked is checked: links, commands, options, parameters, the map."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

import cli
from pipeline.commands.predict import predict
from pipeline.data.synthetic.world import render_image
from pipeline.deployment.labels import labels_of_split
from pipeline.deployment.predictor import open_model
from pipeline.project.code_versions import FOLLOWED
from pipeline.project.layout import Layout
from pipeline.project.params import load_params, lookup
from pipeline.whitening.spaces import load_space
from tests import ROOT
from tests.factories.dvc_project import DvcProject

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("benchmarks/*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def calls(page: Path) -> list[list[str]]:
    """Return the words of each `python cli.py …` of a page."""
    return [call.split() for call in re.findall(r"python cli\.py ([^\n`#|&]+)", text(page))]


def wrong_options(call: list[str]) -> list[str]:
    """Return what a documented call gets wrong: its command or its options."""
    name, *words = call
    if name.startswith("-") or name in ("COMMAND", "…", "<stage>"):
        return []
    if name not in COMMANDS:
        return [name]
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(page)) + re.findall(r'(?:src|href)="([^"#]+)"', text(page))
    assert [to for to in links if "://" not in to and not (page.parent / to).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_documented_call_parses(page: Path) -> None:
    assert [(call, wrong) for call in calls(page) if (wrong := wrong_options(call))] == []


def test_a_wrong_call_in_the_docs_would_be_found() -> None:
    assert wrong_options(["embedd"]) == ["embedd"]
    assert wrong_options(["embed", "--splitt", "train"]) == ["--splitt"]


def test_every_command_is_documented() -> None:
    documented = {call[0] for page in PAGES for call in calls(page)}
    assert set(COMMANDS) - documented == set()


def library_lines() -> list[str]:
    """Return the Python of the README: about the cache, and about a picture."""
    return re.findall(r"```python\n(.*?)```", text(ROOT / "README.md"), flags=re.S)


def test_the_readmes_library_lines_run_and_give_the_teachers_accuracy(
    finished_project: DvcProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = library_lines()
    monkeypatch.chdir(finished_project.folder)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102  our own README
    metrics = json.loads((finished_project.folder / "models/mobilenetv3-zca/metrics.json").read_text(encoding="utf-8"))
    assert names["accuracy"] == pytest.approx(metrics["zero_shot"]["badges"]["clip"]["ceiling"])


def test_the_readmes_lines_about_a_picture_say_what_predict_says(
    finished_project: DvcProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The project has no resnet-tiny: another student stands in for it."""
    picture = tmp_path / "my-photo.jpg"
    Image.fromarray(render_image("val", 900).image).save(picture)
    code = library_lines()[1].replace("resnet-tiny", "mobilenetv3").replace('"my-photo.jpg"', f'"{picture}"')
    monkeypatch.chdir(finished_project.folder)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  our own README
    model = open_model(Path("models/mobilenetv3-zca"))
    (said,) = predict(model, [picture], labels_of_split("badges", Layout()), top=10)
    assert names["probabilities"] == pytest.approx(dict(said.labels), abs=1e-6)
    unit = names["embedding"] / np.linalg.norm(names["embedding"])  # what the space was fitted on
    assert np.allclose(load_space(Path("data/targets/zca.h5")).to_embedding(names["whitened"]), unit, atol=1e-4)


def test_the_map_in_the_readme_names_every_folder_of_the_house() -> None:
    drawn = text(ROOT / "README.md")
    folders = [p for p in [*ROOT.iterdir(), *(ROOT / "pipeline").iterdir()] if p.is_dir() and any(p.glob("*.py"))]
    assert [folder.name for folder in folders if f"{folder.name}/" not in drawn] == []


@pytest.mark.parametrize("preset", sorted(ROOT.glob("presets/*.yaml")), ids=lambda path: path.name)
def test_a_preset_has_the_sections_of_the_default_and_a_group_for_each_name(preset: Path) -> None:
    document, default = load_params(preset), load_params(ROOT / "params.yaml")
    assert list(document) == list(default)
    for names in ("index.splits", "whiten.targets", "distill.students"):
        for name in lookup(document, names):
            assert lookup(document, f"{names.split('.')[0]}.{name}") is not None
    assert set(lookup(document, "distill.targets")) <= set(lookup(document, "whiten.targets"))
    assert lookup(document, "distill.training.zero_shot_set") in lookup(document, "index.splits")


def test_the_default_parameters_are_the_sample_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets" / "sample.yaml").read_bytes()


def test_every_dvc_parameter_stands_in_the_params_file() -> None:
    stages = yaml.safe_load(text(ROOT / "dvc.yaml"))["stages"]
    document = load_params(ROOT / "params.yaml")
    for stage in stages.values():
        for key in stage.get("params", []):
            if isinstance(key, dict):
                assert key.keys() <= {"pipeline/versions.json", "data/code.json"}
                assert set(key.get("data/code.json", [])) <= set(FOLLOWED)
                for name in key.get("pipeline/versions.json", []):
                    assert lookup(load_params(ROOT / "pipeline" / "versions.json"), name) >= 1
            elif "${" not in key:
                assert lookup(document, key) is not None


def test_dependencies_are_pinned() -> None:
    lines = [line for line in text(ROOT / "requirements.txt").splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.match(r"^[\w.\-]+==[\w.+]+( ; .*)?$", line)] == []


def test_nothing_names_a_machine_or_its_paths() -> None:
    pages = [*PAGES, *ROOT.glob("*.yaml"), *ROOT.rglob("presets/*.yaml"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    private = re.compile(r"(?<![\w.])/(work|root|home|tmp)/")
    assert [page.name for page in pages if private.search(text(page))] == []
