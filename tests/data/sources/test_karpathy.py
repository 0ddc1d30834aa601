from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data.sources.registry import parse_source
from pipeline.index import check_no_overlap
from pipeline.project.errors import UsageError
from tests.data.sources.test_sources import coco, image, planned


def karpathy(folder: Path, images: dict[str, str], on_disk: list[str], parts: list[str]) -> dict[str, object]:
    """Lay out a split: names by part as the JSON says them, and the files as they lie."""
    for number, name in enumerate(on_disk):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(image(number))
    entries = [
        {"filename": name, "filepath": "val2014", "split": part, "sentences": [{"raw": f"{name} {n}"} for n in (1, 2)]}
        for name, part in images.items()
    ]
    captions = folder / "dataset.json"
    captions.write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return {"source": "karpathy", "images": str(folder / "images"), "captions": str(captions), "parts": parts}


OLD = {f"COCO_val2014_{number:012d}.jpg": part for number, part in enumerate(("train", "restval", "val", "test"), 1)}


@pytest.mark.parametrize("form", ["val2014/COCO_val2014_{:012d}.jpg", "COCO_val2014_{:012d}.jpg", "2017/{:012d}.jpg"])
def test_images_are_found_under_the_names_of_2014_and_of_2017(tmp_path: Path, form: str) -> None:
    value = karpathy(tmp_path, OLD, [form.format(number) for number in (1, 2, 3, 4)], ["train", "restval"])
    source, listing, plan = planned(value)
    assert [name for name, _ in listing.files] == [form.format(1), form.format(2)]
    said = source.load(plan.entries[1]).captions
    assert said == ("COCO_val2014_000000000002.jpg 1", "COCO_val2014_000000000002.jpg 2")


def test_flickrs_edition_is_read_too(tmp_path: Path) -> None:
    value = karpathy(tmp_path, {"1000092795.jpg": "test", "7.jpg": "train"}, ["1000092795.jpg", "7.jpg"], ["test"])
    assert [entry.key for entry in planned(value)[2].entries] == ["1000092795"]


def test_missing_images_empty_parts_and_another_json_are_refused(tmp_path: Path) -> None:
    value = karpathy(tmp_path, OLD, ["train2017/000000000001.jpg"], ["train", "test"])
    with pytest.raises(UsageError, match="names 2 images, and 1 of them are not in"):
        planned(value)
    with pytest.raises(UsageError, match="has no images of val"):
        planned(karpathy(tmp_path, {"a.jpg": "train"}, ["a.jpg"], ["val"]))
    with pytest.raises(UsageError, match=r"'index\.train\.parts\.0'"):
        parse_source({**value, "parts": ["dev"]}, "index.train")
    for text in ("[]", '{"images": [1]}', '{"images": [{"filename": "a"}]}', "{"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(UsageError, match=r"dataset\.json"):
            planned(value)


def leak(split: object, train: object) -> None:
    source = parse_source(split, "index.val")
    check_no_overlap("val", source, source.listing("index.val"), parse_source(train, "index.train"))


def test_karpathys_test_images_in_train2017_are_a_leak(tmp_path: Path) -> None:
    files = [f"{number:012d}.jpg" for number in (1, 2, 3, 4)]
    test = karpathy(tmp_path / "k", OLD, files, ["val", "test"])
    train = karpathy(tmp_path / "k", OLD, files, ["train", "restval"])
    leak(test, train)  # the split does what it is for
    train2017 = coco(tmp_path / "train2017", {name: ["x"] for name in files[2:]})
    with pytest.raises(UsageError, match=r"'index\.val': 2 of its images are in 'index\.train' too: .*the first: 3\."):
        leak(test, train2017)
    with pytest.raises(UsageError, match="2 of its images"):
        leak(test, {"source": "several", "sources": {"a": train2017}})


def test_val2017_images_in_train2014_are_a_leak(tmp_path: Path) -> None:
    old = coco(tmp_path / "2014", {"COCO_train2014_000000000009.jpg": ["x"]})
    new = coco(tmp_path / "2017", {"000000000009.jpg": ["x"], "000000000010.jpg": ["x"]})
    with pytest.raises(UsageError, match="1 of its images"):
        leak(new, old)


def test_equal_numbers_in_two_folders_of_ones_own_are_no_leak(tmp_path: Path) -> None:
    leak(coco(tmp_path / "a", {"000000000001.jpg": ["x"]}), coco(tmp_path / "b", {"000000000001.jpg": ["x"]}))


def test_the_same_folder_read_in_two_ways_and_the_same_drawn_part_are_leaks(tmp_path: Path) -> None:
    value = coco(tmp_path, {"a.png": ["x"]})
    with pytest.raises(UsageError, match="lie in the same place"):
        leak({"source": "images", "images": str(tmp_path / "images")}, value)
    drawn = {"source": "sample", "part": "val", "images": 3}
    with pytest.raises(UsageError, match="lie in the same place"):
        leak(drawn, {**drawn, "images": 9})
    leak(drawn, {**drawn, "part": "train"})
