from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.images import encode_png
from pipeline.data.sources.base import Source
from pipeline.data.sources.listing import Listing, SamplePlan, make_key
from pipeline.data.sources.registry import SOURCES, parse_source
from pipeline.project.errors import PipelineError, UsageError


def image(color: int, size: int = 8) -> bytes:
    return encode_png(np.full((size, size, 3), color, np.uint8))


def coco(folder: Path, captions: dict[str, list[str]]) -> dict[str, object]:
    """Lay out a COCO split: images with these captions, and their JSON."""
    images = []
    annotations = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (name, said) in enumerate(captions.items()):
        (folder / "images" / name).write_bytes(image(number))
        images.append({"id": 100 + number, "file_name": name})
        annotations += [{"image_id": 100 + number, "caption": caption} for caption in said]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return {"source": "coco", "images": str(folder / "images"), "captions": str(folder / "captions.json")}


def class_folder(folder: Path, classes: dict[str, int]) -> dict[str, object]:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(image(number))
    return {"source": "class-folder", "images": str(folder), "templates": "simple"}


def planned(value: object) -> tuple[Source, Listing, SamplePlan]:
    source = parse_source(value, "index.train")
    listing = source.listing("index.train")
    return source, listing, source.plan(listing)


def test_coco_gives_each_image_its_captions_in_the_files_order(tmp_path: Path) -> None:
    source, listing, plan = planned(coco(tmp_path, {"b.png": ["one", "two"], "a.png": ["three"]}))
    assert [name for name, _ in listing.files] == ["a.png", "b.png"]
    found = [(entry.key, entry.origin, entry.captions) for entry in plan.entries]
    assert found == [("a", "101", ("three",)), ("b", "100", ("one", "two"))]
    assert source.load(plan.entries[1]).image_data == image(0)


def test_class_folders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    _, listing, plan = planned(class_folder(tmp_path / "set", {"polar_bear": 2, "cat": 1}))
    assert listing.classes == ("cat", "polar bear")
    assert listing.templates == ("a photo of a {c}.",)
    assert [(e.key, e.label) for e in plan.entries] == [("cat/0", 0), ("polar_bear/0", 1), ("polar_bear/1", 1)]


def test_class_names_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    value = class_folder(tmp_path / "set", {"n01": 1, "n02": 1})
    (tmp_path / "names.txt").write_text("tench\ngold fish\n")
    assert planned({**value, "classes": str(tmp_path / "names.txt")})[1].classes == ("tench", "gold fish")
    assert planned({**value, "classes": ["a", "b"]})[1].classes == ("a", "b")
    with pytest.raises(UsageError, match=r"'index\.train\.classes': 3 names for 2 classes \(n01, n02"):
        planned({**value, "classes": ["a", "b", "c"]})


def test_the_sample_is_drawn_by_number() -> None:
    source, listing, plan = planned({"source": "sample", "part": "train", "images": 3})
    loaded = source.load(plan.entries[2])
    assert isinstance(loaded.image_data, np.ndarray)
    assert loaded.image_data.shape == (64, 64, 3)
    assert len(loaded.captions or ()) == 5
    assert listing.classes == ()
    _, listing, plan = planned({"source": "sample", "part": "badges", "images": 3})
    assert len(listing.classes) == 10


def test_a_missing_folder_an_empty_one_and_a_file_are_one_clear_line_each(tmp_path: Path) -> None:
    value = coco(tmp_path, {"a.png": ["x"]})
    (tmp_path / "empty").mkdir()
    for images, message in [
        (tmp_path / "nowhere", "no folder"),
        (tmp_path / "empty", "holds no files"),
        (tmp_path / "captions.json", "is a file, expected a folder"),
    ]:
        with pytest.raises(UsageError, match=rf"^params: 'index\.train\.images': .*{message}") as caught:
            planned({**value, "images": str(images)})
        assert "\n" not in str(caught.value)


def test_captions_of_images_that_are_not_there_are_refused_with_their_number(tmp_path: Path) -> None:
    value = coco(tmp_path, {"a.png": ["x"], "b.png": ["y"], "c.png": ["z"]})
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(UsageError, match=r"names 3 images, and 1 of them are not in .*images, the first: 'b\.png'"):
        planned(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"images": []}',
        '{"images": [1], "annotations": []}',
        "[" * 100_000,
        '{"images": [{"id": [], "file_name": "a"}], "annotations": []}',
        "\ud800",
    ],
)
def test_captions_of_another_shape_are_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    value = coco(tmp_path, {"a.png": ["x"]})
    (tmp_path / "captions.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=r"captions\.json"):
        planned(value)


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source 'cooc'; did you mean 'coco'"):
        parse_source({"source": "cooc"}, "index.train")
    with pytest.raises(UsageError, match=r"unknown key 'index\.train\.imagse'; did you mean 'images'"):
        parse_source({"source": "coco", "images": "i", "captions": "y", "imagse": "x"}, "index.train")
    with pytest.raises(UsageError, match=r"expected \{source"):
        parse_source(["x"], "index.train")
    assert {"sample", "coco", "class-folder"} <= set(SOURCES)


def test_a_file_that_changes_after_listing_stops_the_run(tmp_path: Path) -> None:
    source, _, plan = planned(coco(tmp_path, {"a.png": ["x"]}))
    path = tmp_path / "images" / "a.png"
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(PipelineError, match=r"a\.png: 70 bytes, but 69 were listed\. Run `index` again"):
        source.load(plan.entries[0])
    path.unlink()
    with pytest.raises(PipelineError, match="gone since it was listed"):
        source.load(plan.entries[0])


@pytest.mark.parametrize("kind", ["coco", "karpathy", "table"])
def test_captions_that_change_after_listing_stop_the_run_in_one_line(tmp_path: Path, kind: str) -> None:
    value = coco(tmp_path, {"a.png": ["one"], "b.png": ["two"]})
    names = ["a.png", "b.png"]
    sentences = [{"filename": name, "split": "train", "sentences": [{"raw": "said"}]} for name in names]
    before, after = {
        "coco": [
            (tmp_path / "captions.json").read_text(),
            json.dumps(
                {"images": [{"id": 100, "file_name": "a.png"}], "annotations": [{"image_id": 100, "caption": "one"}]}
            ),
        ],
        "karpathy": [json.dumps({"images": part}) for part in (sentences, sentences[:1])],
        "table": ["image,caption\na.png,one\nb.png,two\n", "image,caption\na.png,one\n"],
    }[kind]
    (tmp_path / "captions.json").write_text(before)
    parts = {"parts": ["train"]} if kind == "karpathy" else {}
    source = parse_source({**value, "source": kind, **parts}, "index.train")
    listing = source.listing("index.train")
    assert len(source.plan(listing).entries) == 2  # Negative control: nothing has changed yet.
    (tmp_path / "captions.json").write_text(after)
    with pytest.raises(PipelineError, match=r"captions\.json: changed since it was listed\. Run `index` again\."):
        source.plan(listing)


@pytest.mark.parametrize("kind", ["coco", "karpathy", "table"])
@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/proc/kmsg"])
def test_captions_that_are_no_file_are_refused_and_not_waited_for(tmp_path: Path, kind: str, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    value = {**coco(tmp_path, {"a.png": ["one"]}), "source": kind, "captions": str(tmp_path / place)}
    with pytest.raises(UsageError, match=r"^params: 'index\.train\.captions'"):
        planned({**value, **({"parts": ["train"]} if kind == "karpathy" else {})})


def test_keys_are_ascii_without_dots_and_fit_a_tar_header() -> None:
    assert make_key("a b/ü.v2") == "a%20b/%C3%BC%2Ev2"
    assert make_key("__meta__/x") == "%5F_meta__/x"
    long = make_key("x" * 300)
    assert len(long) <= 90
    assert long != make_key("x" * 301)


def test_an_image_listed_twice_and_a_caption_of_no_image_are_listed_with_the_reason(tmp_path: Path) -> None:
    value = coco(tmp_path, {"a.png": ["x"]})
    path = tmp_path / "captions.json"
    found = json.loads(path.read_text())
    found["images"].append({"id": 100, "file_name": "a.png"})
    found["images"].append({"id": 7, "file_name": "a.png"})
    found["annotations"].append({"image_id": 8, "caption": "of nothing"})
    path.write_text(json.dumps(found))
    _, _, plan = planned(value)
    assert [entry.captions for entry in plan.entries] == [("x",)]
    assert [(skip.origin, skip.reason) for skip in plan.skipped] == [
        ("100", "duplicate: a.png is listed already, as id 100"),
        ("7", "duplicate: a.png is listed already, as id 100"),
        ("8", "a caption of an image that is not in the file"),
    ]


def test_an_id_of_two_images_is_refused(tmp_path: Path) -> None:
    value = coco(tmp_path, {"a.png": ["x"], "b.png": ["y"]})
    path = tmp_path / "captions.json"
    found = json.loads(path.read_text())
    found["images"][1]["id"] = 100  # b.png claims a.png's id
    path.write_text(json.dumps(found))
    with pytest.raises(UsageError, match=r"captions\.json: id 100 is 'a\.png' and 'b\.png'"):
        planned(value)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd"])
def test_a_captions_file_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    value = coco(tmp_path, {"a.png": ["x"]})
    (tmp_path / "captions.json").write_text(json.dumps({"images": [{"id": 1, "file_name": name}], "annotations": []}))
    with pytest.raises(UsageError, match="1 of them are not in"):
        planned(value)
