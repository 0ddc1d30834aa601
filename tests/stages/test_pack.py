from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cache.errors import LockedError
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.data.synthetic.world import render_image
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from tests.data.sources.test_sources import class_folder, coco, image
from tests.factories.tars import tar_of

NAMES = {f"{number:02d}.png": [f"caption {number}"] for number in range(10)}


def packed(root: Path, value: object, workers: int = 0, **params: Any) -> PackedSplit:
    source, layout = parse_source(value, "index.train"), Layout(root)
    index("train", source, layout)
    return open_packed(pack("train", source, PackParams(shard_rows=4, **params), layout, Runtime(workers=workers)))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def samples(split: PackedSplit) -> list[Sample]:
    return [sample for number in range(len(split.shards)) for sample in split.read(number)]


def test_every_image_is_packed_with_its_captions_in_the_order_of_keys(tmp_path: Path) -> None:
    split = packed(tmp_path, coco(tmp_path / "set", dict(reversed(NAMES.items()))))
    assert [sample.key for sample in samples(split)] == [f"{number:02d}" for number in range(10)]
    assert [shard.rows for shard in split.shards] == [4, 4, 2]
    assert samples(split)[3].captions == ("caption 3",)
    assert split.counts == {
        "listed": 10,
        "beyond_limit": 0,
        "packed": 10,
        "skipped": 0,
        "captions": 10,
        "empty_captions": 0,
    }
    assert json.loads((split.folder / "skipped.json").read_text()) == []


def test_packing_again_elsewhere_and_with_two_workers_changes_no_byte(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    first = digests(packed(tmp_path / "1", value).folder)
    assert digests(packed(tmp_path / "1", value).folder) == first
    assert digests(packed(tmp_path / "2", value, workers=2).folder) == first


def test_labels_classes_and_templates_of_a_zero_shot_set_are_packed(tmp_path: Path) -> None:
    split = packed(tmp_path, class_folder(tmp_path / "set", {"cat": 2, "polar_bear": 1}))
    assert [sample.label for sample in samples(split)] == [0, 0, 1]
    assert (split.classes, split.templates) == (("cat", "polar bear"), ("a photo of a {c}.",))


def test_a_limit_takes_the_first_keys_and_says_what_it_left(tmp_path: Path) -> None:
    split = packed(tmp_path, coco(tmp_path / "set", NAMES), limit=5)
    assert [sample.key for sample in samples(split)] == ["00", "01", "02", "03", "04"]
    assert split.counts["beyond_limit"] == 5


def test_bad_images_are_listed_with_the_reason_and_the_counts_add_up(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    (tmp_path / "set" / "images" / "03.png").write_bytes(b"")
    (tmp_path / "set" / "images" / "04.png").write_bytes(b"<html>not found</html>")
    split = packed(tmp_path, value, max_skipped_fraction=0.2)
    skipped = json.loads((split.folder / "skipped.json").read_text())
    assert [(skip["key"], skip["reason"]) for skip in skipped] == [
        ("03", "an empty file"),
        ("04", "not an image: begins with b'<html>no'"),
    ]
    assert split.counts == {
        "listed": 10,
        "beyond_limit": 0,
        "packed": 8,
        "skipped": 2,
        "captions": 8,
        "empty_captions": 0,
    }
    assert [shard.rows for shard in split.shards] == [3, 3, 2]


def test_too_many_bad_images_are_an_error_and_nothing_is_published(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    (tmp_path / "set" / "images" / "03.png").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"1 of 10 samples .*max_skipped_fraction = 0\.05.*1 x an empty file"):
        packed(tmp_path, value, max_skipped_fraction=0.05)
    assert not Layout(tmp_path).packed("train").exists()


def test_a_shard_of_nothing_but_bad_images_leaves_no_gap(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    for number in range(4, 8):
        (tmp_path / "set" / "images" / f"{number:02d}.png").write_bytes(b"")
    split = packed(tmp_path, value, max_skipped_fraction=0.5)
    assert [(shard.name, shard.rows) for shard in split.shards] == [("shard-00000.tar", 4), ("shard-00001.tar", 2)]


def test_a_change_of_one_image_packs_one_shard(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    before = packed(tmp_path, value)
    inodes = [(before.folder / shard.name).stat().st_ino for shard in before.shards]
    (tmp_path / "set" / "images" / "05.png").write_bytes(image(200, size=9))
    after = packed(tmp_path, value)
    same = [(after.folder / shard.name).stat().st_ino for shard in after.shards]
    assert [a == b for a, b in zip(inodes, same, strict=True)] == [True, False, True]
    assert before.shards[0] == after.shards[0]
    assert before.shards[1].images_sha256 != after.shards[1].images_sha256


def test_a_run_that_was_stopped_packs_only_what_is_missing(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    finished = digests(packed(tmp_path, value).folder)
    workspace = next(path for path in Layout(tmp_path).store.iterdir() if path.is_dir())
    kept = sorted(workspace.glob("*.tar"))
    kept[0].with_suffix(".json").unlink()  # killed between a shard and its record
    kept[1].write_bytes(b"")  # a disk that lost it
    again = packed(tmp_path, value)
    assert digests(again.folder) == finished
    assert len(samples(again)) == 10


def test_a_second_packer_is_kept_out(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", NAMES)
    packed(tmp_path, value)
    workspace = next(path for path in Layout(tmp_path).store.iterdir() if path.is_dir())
    with (
        WorkStore(Layout(tmp_path).store).lock("pack", workspace.name.removeprefix("pack-")),
        pytest.raises(LockedError),
    ):
        packed(tmp_path, value)


def test_captions_that_say_nothing_are_counted_and_an_image_without_any_is_skipped(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", {"a.png": ["a cat", " ", ""], "b.png": [" "], "c.png": [], "d.png": ["猫 " * 999]})
    split = packed(tmp_path, value, max_skipped_fraction=0.5)
    assert [sample.captions for sample in samples(split)] == [("a cat",), (("猫 " * 999).strip(),)]
    assert {name: split.counts[name] for name in ("packed", "skipped", "captions", "empty_captions")} == {
        "packed": 2,
        "skipped": 2,
        "captions": 2,
        "empty_captions": 2,
    }
    skipped = json.loads((split.folder / "skipped.json").read_text())
    assert [(skip["key"], skip["reason"]) for skip in skipped] == [("b", "its captions are empty"), ("c", "no caption")]


def test_a_label_without_a_class_is_skipped(tmp_path: Path) -> None:
    tar_of(tmp_path / "t" / "0.tar", {"a.cls": b"0", "a.png": image(1), "b.cls": b"2", "b.png": image(2)})
    value = {"source": "tars", "tars": str(tmp_path / "t"), "classes": ["x", "y"]}
    split = packed(tmp_path, value, max_skipped_fraction=0.5)
    assert "its label is 2, and there are 2 classes" in (split.folder / "skipped.json").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_changes_while_it_is_packed_stops_the_run_and_publishes_nothing(
    tmp_path: Path, workers: int
) -> None:
    value = coco(tmp_path / "set", NAMES)
    source, layout = parse_source(value, "index.train"), Layout(tmp_path)
    index("train", source, layout)
    (tmp_path / "set" / "images" / "05.png").unlink()
    with pytest.raises(PipelineError, match=r"05\.png: gone since it was listed\. Run `index` again"):
        pack("train", source, PackParams(shard_rows=4), layout, Runtime(workers=workers))
    assert not layout.packed("train").exists()


@pytest.mark.parametrize("several", [False, True])
def test_another_version_of_the_drawing_code_draws_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    value: dict[str, object] = {"source": "sample", "part": "train", "images": 3}
    value = {"source": "several", "sources": {"drawn": value}} if several else value
    before = samples(packed(tmp_path, value))
    monkeypatch.setattr("pipeline.data.sources.synthetic.code_version", lambda _: 2)
    monkeypatch.setattr(
        "pipeline.data.synthetic.world.render_image", lambda part, number, seed: render_image(part, number + 10, seed)
    )
    after = samples(packed(tmp_path, value))
    assert [sample.key for sample in after] == [sample.key for sample in before]
    assert all(new.image != old.image for new, old in zip(after, before, strict=True))
