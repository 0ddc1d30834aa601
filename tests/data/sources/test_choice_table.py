"""Choice sets from files: our own lines and the layouts of published benchmarks, each read from a tiny copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.listing import Choice
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime

TRUE, FALSE = "a dog left of a cat", "a cat left of a dog"
LINES = [
    {"image": "a.png", "caption": TRUE, "foils": [FALSE], "task": "place", "group": "1"},
    {"image": "b.png", "caption": FALSE, "foils": [TRUE], "task": "place", "group": "1"},
    {"image": "a.png", "caption": "one dog", "foils": ["two dogs", "no dog"], "task": "number"},
]
TABLES = {
    "lines": "\n".join(json.dumps(line) for line in LINES),
    "sugarcrepe": json.dumps({"0": {"filename": "a.png", "caption": TRUE, "negative_caption": FALSE}}),
    "aro": json.dumps(
        [{"image_path": "x/a.png", "true_caption": TRUE, "false_caption": FALSE, "relation_name": "left"}]
    ),
    "whatsup": json.dumps([{"image_path": "data/x/a.png", "caption_options": [TRUE, FALSE, "a dog on a cat"]}]),
    "negbench": f"image_path,correct_answer,caption_0,caption_1\ndata/a.png,1,{FALSE},{TRUE}\n",
    "winoground": json.dumps({"id": 7, "image_0": "a", "image_1": "b", "caption_0": TRUE, "caption_1": FALSE}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number, name in enumerate("ab"):
        Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def choices(folder: Path, layout: str, table: str) -> dict[str, tuple[Choice, ...]]:
    path = folder / "spatial.json"
    path.write_text(table, encoding="utf-8")
    value = {"source": "choices", "images": str(folder / "images"), "table": str(path), "layout": layout}
    source, project = parse_source(value, "index.choices"), Layout(folder / "project")
    index("choices", source, project)
    pack("choices", source, PackParams(), project, Runtime(workers=0))
    packed = open_packed(project.packed("choices"))
    return {sample.key: sample.choices for sample in packed.read(0)}


@pytest.mark.parametrize("layout", [name for name in TABLES if name != "lines"])
def test_a_published_layout_is_read(folder: Path, layout: str) -> None:
    found = choices(folder, layout, TABLES[layout])["a"]
    assert [(choice.caption, choice.foils[0], choice.task) for choice in found] == [(TRUE, FALSE, "spatial")]


def test_the_two_images_of_winoground_are_counterparts(folder: Path) -> None:
    found = choices(folder, "winoground", TABLES["winoground"])
    assert found["b"][0] == Choice(FALSE, (TRUE,), "spatial", "7")
    assert found["a"][0].group == "7"


def test_an_image_has_all_its_choices_in_the_tables_order(folder: Path) -> None:
    found = choices(folder, "lines", TABLES["lines"])
    assert found["a"] == (
        Choice(TRUE, (FALSE,), "place", "1"),
        Choice("one dog", ("two dogs", "no dog"), "number", ""),
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"image": "a.png", "caption": TRUE, "foils": [TRUE]}, "stands among its own foils"),
        ({"image": "a.png", "caption": TRUE, "foils": []}, "no foil for"),
        ({"image": "a.png", "caption": TRUE, "foils": [" "]}, "a choice without text"),
        ({"image": "a.png", "foils": [FALSE]}, "no 'caption'"),
        ({"image": "z.png", "caption": TRUE, "foils": [FALSE]}, "are not in"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(folder: Path, table: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        choices(folder, "lines", json.dumps(table))
    assert "spatial.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_of_another_layout_is_refused_with_the_layout_asked_for(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"spatial\.json: not of the layout 'sugarcrepe'"):
        choices(folder, "sugarcrepe", TABLES["aro"])
