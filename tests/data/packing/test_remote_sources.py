"""Sources in object storage: what is packed from them is what local files would have given, through every fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache.errors import MissingError, StaleError
from pipeline.commands.integrity_checks import check_packed
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.project.errors import PipelineError, RemoteError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.remote import objects
from pipeline.project.remote.retries import RetryPolicy
from tests import ROOT
from tests.data.packing.test_references import downstream, packed, samples, tars
from tests.data.sources.test_sources import class_folder, coco, image
from tests.factories.object_storage import BUCKET, FaultyProxy, S3Server
from tests.factories.tars import tar_of


def table(folder: Path) -> dict[str, Any]:
    value = coco(folder, {f"{n}.png": ["x"] for n in range(5)})
    rows = [{"image": f"{n}.png", "caption": [f"row {n}", "ü"]} for n in range(5)]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": "table", "images": value["images"], "captions": str(folder / "table.jsonl")}


def named_classes(folder: Path) -> dict[str, Any]:
    value = class_folder(folder / "set", {"cat": 8, "dog": 9})
    (folder / "names.txt").write_text("a cat\na dog\n")
    (folder / "list.txt").write_text("".join(f"set/{c}/{n}.png {n}\n" for c in ("cat", "dog") for n in range(1, 8)))
    return {**value, "classes": str(folder / "names.txt"), "splits": [str(folder / "list.txt")]}


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tars": lambda folder: tars(folder / "tars", "train"),
    "coco": lambda folder: coco(folder, {f"{n:02d}.png": [f"caption {n}", "é"] for n in range(14)}),
    "table": table,
    "class-folder": named_classes,
    "several": lambda folder: {
        "source": "several",
        "sources": {"a": tars(folder / "a", "train", 8), "b": coco(folder / "b", {"1.png": ["one"], "2.png": ["two"]})},
    },
}


def at_url(value: Any, folder: Path, url: str) -> Any:
    """Return the parameters of a source with URLs in the place of paths below a folder."""
    if isinstance(value, dict):
        return {key: at_url(inner, folder, url) for key, inner in value.items()}
    if isinstance(value, list):
        return [at_url(inner, folder, url) for inner in value]
    return value.replace(str(folder), url) if isinstance(value, str) else value


def files(split: PackedSplit) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(split.folder.iterdir())}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_in_object_storage_is_packed_to_the_bytes_of_a_local_one_through_faults(
    s3_server: S3Server, faulty_s3: FaultyProxy, tmp_path: Path, kind: str
) -> None:
    value = SOURCES[kind](tmp_path / "set")
    remote = at_url(value, tmp_path / "set", s3_server.upload(tmp_path / "set", f"sources/{kind}"))
    if kind == "several":  # one part stays on the disk
        remote["sources"]["b"] = value["sources"]["b"]
    local = packed(tmp_path / "local", value, "copy")
    assert files(packed(tmp_path / "copy", remote, "copy")) == files(local)
    referred = packed(tmp_path / "reference", remote, "reference")
    assert samples(referred) == samples(local)
    assert (referred.folder / "skipped.json").read_bytes() == (local.folder / "skipped.json").read_bytes()
    keys = [sample.key for sample in samples(local)][::3]
    assert read_samples(referred, keys) == read_samples(local, keys)
    assert not list(check_packed(referred.folder))
    assert sum(faulty_s3.injected.values()) > 3


def test_what_is_made_of_images_that_stay_in_object_storage_is_what_copies_give(
    s3_server: S3Server, faulty_s3: FaultyProxy, tmp_path: Path, tiny_teacher: str
) -> None:
    faulty_s3.share = 0.2
    values = {split: tars(tmp_path / f"set-{split}", split) for split in ("train", "val")}
    urls = {split: s3_server.upload(tmp_path / f"set-{split}", f"downstream/{split}") for split in values}
    remote = {split: {**value, "tars": urls[split]} for split, value in values.items()}
    copies = downstream(tmp_path / "copy", values, "copy", tiny_teacher)
    referred = downstream(tmp_path / "reference", remote, "reference", tiny_teacher)
    assert {name for name in copies if copies[name] != referred.get(name)} == set()
    assert copies.keys() == referred.keys()
    assert sum(faulty_s3.injected.values()) > 3


@pytest.mark.slow
def test_the_whole_sample_is_packed_from_object_storage_to_the_bytes_of_a_local_folder_through_faults(
    s3_server: S3Server, faulty_s3: FaultyProxy, tmp_path: Path
) -> None:
    faulty_s3.share = 0.25
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for split in params["index"]["splits"]:
        drawn = packed(tmp_path / "drawn", params["index"][split], "copy", split, shard_rows=500)
        fields = {"classes": list(drawn.classes)} if drawn.classes else {"caption_field": "captions"}
        value = {"source": "tars", "tars": str(drawn.folder), **fields}
        remote = {**value, "tars": s3_server.upload(drawn.folder, f"sample/{split}")}
        local = packed(tmp_path / "local", value, "copy", split, shard_rows=500)
        assert local.rows == params["index"][split]["images"]
        assert files(packed(tmp_path / "copy", remote, "copy", split, shard_rows=500)) == files(local)
        referred = packed(tmp_path / "reference", remote, "reference", split, shard_rows=500)
        assert samples(referred) == samples(local)
    assert set(faulty_s3.injected) == {"500", "hang", "cut", "short", "slow-down"}
    print(f"{faulty_s3.requests} requests, of which failed: {dict(faulty_s3.injected)}")


def test_without_a_second_attempt_the_same_faults_end_the_walk(
    s3_server: S3Server, faulty_s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = tars(tmp_path / "set", "train")
    url = s3_server.upload(tmp_path / "set", "sources/once")
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(attempts=1, read_seconds=1.0))
    faulty_s3.share = 1.0
    with pytest.raises(RemoteError, match="gave up after 1 attempts"):
        packed(tmp_path / "project", {**value, "tars": url}, "copy")
    assert not Layout(tmp_path / "project").packed("train").exists()


@pytest.mark.parametrize("mode", ["copy", "reference"])
def test_an_object_that_was_replaced_by_one_of_as_many_bytes_is_packed_anew_and_the_others_are_not(
    s3: S3Server, tmp_path: Path, mode: str
) -> None:
    value = {"source": "tars", "tars": f"s3://{BUCKET}/replaced-{mode}"}
    for number in range(3):
        tar_of(tmp_path / f"{number}.tar", {f"{number}.png": image(number), f"{number}.txt": b"a caption"})
        s3.request("PUT", f"replaced-{mode}/{number}.tar", (tmp_path / f"{number}.tar").read_bytes())
    before = packed(tmp_path / "project", value, mode, shard_rows=1)
    inodes = [(before.folder / shard.name).stat().st_ino for shard in before.shards]
    tar_of(tmp_path / "1.tar", {"1.png": image(7), "1.txt": b"a caption"})
    assert len(image(7)) == len(image(1))
    s3.request("PUT", f"replaced-{mode}/1.tar", (tmp_path / "1.tar").read_bytes())
    after = packed(tmp_path / "project", value, mode, shard_rows=1)
    assert [sample.image for sample in samples(after)] == [image(0), image(7), image(2)]
    same = [
        (after.folder / shard.name).stat().st_ino == inode for shard, inode in zip(after.shards, inodes, strict=True)
    ]
    assert same == [True, False, True]


def test_a_tar_that_was_replaced_between_listing_and_packing_is_named(s3: S3Server, tmp_path: Path) -> None:
    value = tars(tmp_path / "set", "train")
    remote = {**value, "tars": s3.upload(tmp_path / "set", "between")}
    source = parse_source(remote, "index.train")
    listing = source.listing("index.train")
    data = bytearray((tmp_path / "set/00001.tar").read_bytes())
    data[600] ^= 1
    s3.request("PUT", "between/00001.tar", bytes(data))
    with pytest.raises(PipelineError, match=r"between/00001\.tar: not the \d+ bytes that were listed\. Run `index`"):
        source.plan(listing)
    s3.request("DELETE", "between/00001.tar")
    with pytest.raises(PipelineError, match=r"between/00001\.tar: gone since it was listed"):
        source.plan(listing)


def test_an_image_that_was_replaced_after_it_was_referred_to_is_named_before_it_is_served(
    s3: S3Server, tmp_path: Path
) -> None:
    value = coco(tmp_path / "set", {f"{n:02d}.png": [f"caption {n}"] for n in range(5)})
    split = packed(tmp_path, at_url(value, tmp_path / "set", s3.upload(tmp_path / "set", "referred")), "reference")
    assert len(image(7)) == len(image(3))
    s3.request("PUT", "referred/images/03.png", image(7))
    with pytest.raises(StaleError, match=r"images/03\.png: version '\w+', and '\w+' when it was packed by reference"):
        samples(split)
    s3.request("PUT", "referred/images/03.png", image(3) + b"x")
    with pytest.raises(StaleError, match=r"images/03\.png: \d+ bytes, and \d+ when it was packed by reference"):
        samples(split)
    s3.request("DELETE", "referred/images/03.png")
    with pytest.raises(MissingError, match=r"03\.png: packed by reference, and cannot be read any more: no such"):
        samples(split)
    s3.request("PUT", "referred/images/03.png", image(3))
    assert len(samples(split)) == 5  # put back: as good as before


def test_the_index_notes_versions_and_an_image_that_both_splits_have_is_found(s3: S3Server, tmp_path: Path) -> None:
    value = coco(tmp_path / "set", {"1.png": ["one"], "2.png": ["two"]})
    remote = parse_source(at_url(value, tmp_path / "set", s3.upload(tmp_path / "set", "noted")), "index.train")
    found = json.loads(index("train", remote, Layout(tmp_path)).read_text())
    assert found["files"] == {"1.png": len(image(0)), "2.png": len(image(1))}
    assert len(set(found["versions"].values())) == 2
    assert "versions" not in json.loads(index("val", parse_source(value, "index.val"), Layout(tmp_path)).read_text())
    with pytest.raises(UsageError, match=r"2 of its images are in 'index\.train' too: they lie in the same place"):
        index("val", remote, Layout(tmp_path), remote)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"source": "tars", "tars": "s3://no-such-bucket/x"}, r"s3://no-such-bucket/x holds no files"),
        (
            {"source": "images", "images": f"s3://{BUCKET}/refused/a.png"},
            r"a\.png is a file, expected a folder",
        ),
        ({"source": "cifar", "images": f"s3://{BUCKET}/refused"}, r"s3://bucket/refused is no CIFAR as downloaded"),
        (
            {"source": "coco", "images": f"s3://{BUCKET}/refused", "captions": f"s3://{BUCKET}/no.json"},
            r"'index\.train\.captions': no file s3://bucket/no\.json",
        ),
        ({"source": "tars", "tars": "s3://AKIA:hidden@bucket/x"}, "without user, password or query"),
        ({"source": "tars", "tars": "ftp://host/x"}, "a URL of s3, gs, hf"),
    ],
)
def test_a_url_that_is_no_source_is_one_line(s3: S3Server, value: dict[str, str], said: str) -> None:
    s3.request("PUT", "refused/a.png", image(1))
    with pytest.raises(UsageError, match=said) as error:
        parse_source(value, "index.train").listing("index.train")
    assert "hidden" not in str(error.value)
