from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.errors import DamagedError, MissingError, StaleError
from pipeline.data.sources.listing import load_listing
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.project.layout import Layout
from tests.data.sources.test_sources import class_folder, coco


def test_the_index_lists_sorted_names_and_sizes_and_is_the_same_bytes_again(tmp_path: Path) -> None:
    source = parse_source(coco(tmp_path / "set", {"b.png": ["x"], "a.png": ["y"]}), "index.train")
    path = index("train", source, Layout(tmp_path))
    first = path.read_bytes()
    assert list(json.loads(first)["files"]) == ["a.png", "b.png"]
    assert index("train", source, Layout(tmp_path)).read_bytes() == first


def test_a_changed_size_a_new_file_and_an_edited_caption_change_the_index(tmp_path: Path) -> None:
    value = class_folder(tmp_path / "set", {"cat": 1})
    source = parse_source(value, "index.pets")
    seen = {index("pets", source, Layout(tmp_path)).read_bytes()}
    image = tmp_path / "set" / "cat" / "0.png"
    image.write_bytes(image.read_bytes() + b"\0")
    seen.add(index("pets", source, Layout(tmp_path)).read_bytes())
    (tmp_path / "set" / "cat" / "1.png").write_bytes(b"x")
    seen.add(index("pets", source, Layout(tmp_path)).read_bytes())
    assert len(seen) == 3
    captioned = parse_source(coco(tmp_path / "coco", {"a.png": ["cat"]}), "index.train")
    before = index("train", captioned, Layout(tmp_path)).read_bytes()
    captions = tmp_path / "coco" / "captions.json"
    captions.write_text(captions.read_text().replace("cat", "dog"))  # the same size
    assert index("train", captioned, Layout(tmp_path)).read_bytes() != before


def test_an_index_of_another_source_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = parse_source(coco(tmp_path / "set", {"a.png": ["x"]}), "index.train")
    path = index("train", source, Layout(tmp_path))
    said = source.model_dump(mode="json")
    assert load_listing(path, said).files[0][0] == "a.png"
    with pytest.raises(StaleError, match=r"Run `python cli\.py index --split train` again"):
        load_listing(path, {**said, "images": "elsewhere"})
    path.write_text("[]")
    with pytest.raises(DamagedError, match=r"train\.json: expected a mapping with a seal"):
        load_listing(path, said)
    path.unlink()
    with pytest.raises(MissingError, match="index --split train"):
        load_listing(path, said)
