from __future__ import annotations

import json
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.data.sources import class_names as classes
from pipeline.data.sources.class_names import folder_class_names, load_templates, resolve_class_names
from pipeline.project.errors import UsageError


def test_folders_name_classes_themselves() -> None:
    assert folder_class_names(None, ["aquarium_fish", "cat"], "k") == (("aquarium fish", "cat"), ())


def test_imagenet_has_open_clips_thousand_names() -> None:
    package = find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    run = runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))  # ours reads it, this runs it
    assert resolve_class_names("imagenet", "k")[0] == tuple(run["IMAGENET_CLASSNAMES"])
    assert len(run["IMAGENET_CLASSNAMES"]) == 1000


def test_cifar_10_has_its_names_and_eighteen_templates() -> None:
    assert resolve_class_names("cifar10", "k")[0][-1] == "truck"
    assert len(load_templates("cifar10", "k")[0]) == 18


def test_files_of_lines_and_of_json_name_classes_and_templates(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufefftench\n\n gold fish \n")
    (tmp_path / "names.json").write_text(json.dumps({"food101": ["apple pie"], "x": 3}))
    (tmp_path / "templates.txt").write_text("a photo of {c}, a type of food.\n")
    assert resolve_class_names(str(tmp_path / "names.txt"), "k")[0] == ("tench", "gold fish")
    assert resolve_class_names(f"{tmp_path / 'names.json'}#food101", "k")[0] == ("apple pie",)
    assert load_templates(str(tmp_path / "templates.txt"), "k")[0] == ("a photo of {c}, a type of food.",)
    with pytest.raises(UsageError, match=r"names\.json: expected a list of names, or FILE\.json#SET; its sets: food"):
        resolve_class_names(f"{tmp_path / 'names.json'}#x", "k")
    with pytest.raises(UsageError, match=r"expected \{c\} in each template, found 'tench'"):
        load_templates(str(tmp_path / "names.txt"), "k")


def test_clip_benchmarks_lists_are_known_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'flowers' is no file and no known list"):
        resolve_class_names("flowers", "k")
    package = tmp_path / "clip_benchmark"
    (package / "datasets").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('its code is not run')")
    (package / "datasets" / "en_classnames.json").write_text(json.dumps({"flowers": ["rose", "tulip"]}))
    templates = package / "datasets" / "en_zeroshot_classification_templates.json"
    templates.write_text(json.dumps({"flowers": ["a photo of a {c}, a type of flower."]}))
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_class_names("flowers", "k")[0] == ("rose", "tulip")
    assert load_templates("flowers", "k")[0] == ("a photo of a {c}, a type of flower.",)
    with pytest.raises(UsageError, match="'flowres' is no file and no known list; did you mean 'flowers'"):
        resolve_class_names("flowres", "k")


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(UsageError, match=r"'index\.x\.classes': 'imagnet' .*did you mean 'imagenet'.*known: cifar10"):
        resolve_class_names("imagnet", "index.x.classes")
    assert classes.CIFAR10[0] == "airplane"


def test_another_number_of_names_than_folders_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1000 names for 2 classes \(n01, n02"):
        folder_class_names("imagenet", ["n01", "n02"], "k")
