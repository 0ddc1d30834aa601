"""Packed by reference: the images stay where they are, and everything made of them is what copies would have given."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline.pack as pack_module
from cache.arrays import read_arrays, write_arrays
from cache.errors import DamagedError, MissingError, StaleError
from pipeline.commands.integrity_checks import check_packed
from pipeline.commands.verify import verify
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed
from pipeline.data.packing.references import open_references
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.data.packing.worker import PackJob, PackResult
from pipeline.data.sources.listing import Entry
from pipeline.data.sources.registry import parse_source
from pipeline.distill import FILES, DistillParams, distill
from pipeline.embed import EmbedParams, embed
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.remote.paths import RemotePath
from pipeline.teacher.params import TeacherParams
from pipeline.whiten import TargetParams, whiten
from tests.data.sources.test_sources import class_folder, coco, image
from tests.factories.project import PARTS, write_further_captions
from tests.factories.students import TINY
from tests.factories.tars import tar_of

RUNTIME = Runtime(workers=0, batch=16, device="cpu")
SEEDS = {"train": 0, "val": 500}


def photo(number: int, form: str = "JPEG", size: int = 24) -> bytes:
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((size + number % 5, size), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def tars(folder: Path, split: str, count: int = 22) -> dict[str, Any]:
    """Write img2dataset's layout: two tars, `.jpg`, `.txt` and `.json`, one image as BMP, one damaged, one empty."""
    for tar in range(2):
        members = {}
        for number in range(tar * count // 2, (tar + 1) * count // 2):
            name = f"{tar:05d}{number:04d}"
            form = ("bmp", "BMP") if number == 3 else ("jpg", "JPEG")
            members[f"{name}.{form[0]}"] = b"" if number == 5 else photo(SEEDS[split] + number, form[1])
            members[f"{name}.json"] = json.dumps({"caption": f"{split} {number}", "url": "x"}).encode()
            members[f"{name}.txt"] = f"{split} picture {number}".encode()
        tar_of(folder / f"{tar:05d}.tar", members)
    return {"source": "tars", "tars": str(folder)}


def packed(root: Path, value: object, mode: str, split: str = "train", **params: Any) -> PackedSplit:
    source, layout = parse_source(value, f"index.{split}"), Layout(root)
    index(split, source, layout)
    chosen = PackParams.model_validate({"shard_rows": 6, "mode": mode, "max_skipped_fraction": 0.2, **params})
    return open_packed(pack(split, source, chosen, layout, RUNTIME))


def samples(split: PackedSplit) -> list[Sample]:
    return [sample for number in range(len(split.shards)) for sample in split.read(number)]


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tars": lambda folder: tars(folder, "train"),
    "coco": lambda folder: coco(folder, {f"{n:02d}.png": [f"caption {n}", "é"] for n in range(14)}),
    "class-folder": lambda folder: class_folder(folder, {"cat": 4, "dog": 5}),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_samples_shards_and_content_digests_are_those_of_a_copy(tmp_path: Path, kind: str) -> None:
    value = SOURCES[kind](tmp_path / "set")
    copy, referred = (packed(tmp_path / mode, value, mode) for mode in ("copy", "reference"))
    assert samples(referred) == samples(copy)
    contents = [[(s.rows, s.images_sha256, s.captions_sha256) for s in split.shards] for split in (copy, referred)]
    assert contents[0] == contents[1]
    assert (copy.counts, copy.classes) == (referred.counts, referred.classes)
    skipped = [(split.folder / "skipped.json").read_bytes() for split in (copy, referred)]
    assert skipped[0] == skipped[1]
    keys = [sample.key for sample in samples(copy)][::3]
    assert read_samples(referred, keys) == read_samples(copy, keys)


def test_a_format_that_a_copy_would_encode_anew_is_encoded_when_it_is_read(tmp_path: Path) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "reference")
    found = {sample.key: sample for sample in samples(split)}["000000003"]
    assert found.extension == "png"
    assert found.image.startswith(b"\x89PNG")
    original = Image.open(io.BytesIO(photo(SEEDS["train"] + 3, "BMP")))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found.image))), np.asarray(original.convert("RGB")))


def test_no_image_byte_is_on_the_disk_twice_and_two_runs_write_the_same(tmp_path: Path) -> None:
    value = coco(tmp_path / "set", {f"{n:02d}.png": [f"caption {n}"] for n in range(14)})
    first = packed(tmp_path / "1", value, "reference")
    again = packed(tmp_path / "2", value, "reference")
    for shard in first.shards:
        data = (first.folder / shard.name).read_bytes()
        assert data == (again.folder / shard.name).read_bytes()
        assert not any(image(n) in data for n in range(14))
    # Negative control: a copy does hold them.
    copy = packed(tmp_path / "3", value, "copy")
    assert image(3) in (copy.folder / copy.shards[0].name).read_bytes()


def downstream(root: Path, sources: dict[str, dict[str, Any]], mode: str, teacher: str) -> dict[str, bytes]:
    """Walk pack, embed, moments, whiten and distill; return every embedding shard, target and student file."""
    layout = Layout(root)
    for split, value in sources.items():
        packed(root, value, mode, split)
        embed(split, EmbedParams(teacher=TeacherParams(model=teacher)), layout, RUNTIME)
    moments(MomentsParams(), layout, RUNTIME)
    whiten("zca", TargetParams(method="zca", floor=0.01), layout)
    training = {"epochs": 2, "batch": 8, "image_size": 16, "num_validations": 1}
    params = DistillParams.model_validate({"training": training, "loss": {"fd": 1.0}, "student": {}})
    out = distill(TINY, "zca", params, layout, RUNTIME, layout.model(TINY, "zca"))
    shards = {str(path.relative_to(root)): path.read_bytes() for path in (root / "data/embeddings").rglob("*.h5")}
    made = {name: (root / "data" / name).read_bytes() for name in ("moments.h5", "targets/zca.h5")}
    return {**shards, **made, **{name: (out / name).read_bytes() for name in FILES}}


def test_embeddings_targets_and_student_are_the_same_bytes_as_from_copies(tmp_path: Path, tiny_teacher: str) -> None:
    sources = {split: tars(tmp_path / f"set-{split}", split) for split in ("train", "val")}
    copies = downstream(tmp_path / "copy", sources, "copy", tiny_teacher)
    referred = downstream(tmp_path / "reference", sources, "reference", tiny_teacher)
    assert len(copies) > 8
    assert {name for name in copies if copies[name] != referred.get(name)} == set()
    assert copies.keys() == referred.keys()


def flip(path: Path, at: int) -> None:
    """Change one byte, and leave size and time of modification as they were."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def image_at(split: PackedSplit, row: int) -> int:
    return int(read_arrays(split.folder / split.shards[0].name).arrays["offset"][row])


def test_a_byte_of_an_image_that_changed_in_its_tar_is_named_before_it_is_served(tmp_path: Path) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "reference")
    flip(tmp_path / "set/00000.tar", image_at(split, 2) + 100)
    served: list[Sample] = []
    with pytest.raises(StaleError, match=r"set/00000\.tar: the image '000000002' at byte \d+ is not the one that was"):
        served.extend(split.read(0))
    assert [sample.key for sample in served] == ["000000000", "000000001"]  # none after it, and not it
    with pytest.raises(StaleError, match="000000002"):
        read_samples(split, ["000000002"])
    assert [fault for fault in check_packed(split.folder) if "000000002" in fault]
    result = verify(Layout(tmp_path))
    assert [fault for fault in result.faults if "00000.tar" in fault]


def test_what_a_verify_finds_whole_is_whole(tmp_path: Path) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "reference")
    assert list(check_packed(split.folder)) == []
    assert verify(Layout(tmp_path)).faults == []


def test_a_tar_that_vanished_or_grew_is_named_before_the_first_sample_of_its_shard(tmp_path: Path) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "reference")
    whole = len(list(split.read(1)))  # rows of both tars
    (tmp_path / "set/00001.tar").rename(tmp_path / "elsewhere.tar")
    reading = split.read(1)
    with pytest.raises(MissingError, match=r"00001\.tar: packed by reference, and cannot be read any more: No such"):
        next(reading)
    shutil.copy(tmp_path / "elsewhere.tar", tmp_path / "set/00001.tar")
    assert len(list(split.read(1))) == whole  # put back: as good as before
    with (tmp_path / "set/00001.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(StaleError, match=r"00001\.tar: \d+ bytes, and \d+ when it was packed by reference"):
        next(split.read(1))


def test_packing_again_after_a_change_refers_to_what_is_there_now(tmp_path: Path) -> None:
    value = tars(tmp_path / "set", "train")
    split = packed(tmp_path, value, "reference")
    before = {shard.name: (split.folder / shard.name).stat().st_ino for shard in split.shards}
    flip(tmp_path / "set/00000.tar", image_at(split, 2) + 100)
    again = packed(tmp_path, value, "reference")
    assert again.shards[0].images_sha256 != split.shards[0].images_sha256
    assert len(samples(again)) == again.rows
    # What refers to the other tar alone was not made again.
    last = again.shards[-1].name
    assert (again.folder / last).stat().st_ino == before[last]
    assert (again.folder / again.shards[0].name).stat().st_ino != before[again.shards[0].name]


@pytest.mark.parametrize(
    ("value", "params", "said"),
    [
        ({"source": "sample", "part": "val", "images": 4}, {}, r"do not lie in image files or tars\. Set mode: copy"),
        (None, {"resize": 16}, r"'pack\.resize: 16' re-encodes them"),
        (None, {"mode": "refer"}, r"mode"),
    ],
)
def test_what_cannot_be_referred_to_is_refused_before_anything_is_written(
    tmp_path: Path, value: Any, params: dict[str, Any], said: str
) -> None:
    source = value or coco(tmp_path / "set", {"a.png": ["x"]})
    with pytest.raises((UsageError, ValueError), match=said):
        packed(tmp_path / "project", source, **{"mode": "reference", **params})
    assert not Layout(tmp_path / "project").packed("train").exists()


def test_a_source_of_several_refers_to_the_files_of_each(tmp_path: Path) -> None:
    parts = {"a": coco(tmp_path / "a", {"1.png": ["one"], "2.png": ["two"]}), "b": tars(tmp_path / "b", "train", 6)}
    split = packed(tmp_path, {"source": "several", "sources": parts}, "reference")
    assert [sample.key for sample in samples(split)][:3] == ["a/1", "a/2", "b/000000000"]
    assert {path.name for n in range(len(split.shards)) for path in shard_files(split, n)} >= {"1.png", "00000.tar"}


def shard_files(split: PackedSplit, number: int) -> list[Path | RemotePath]:
    return open_references(split.folder / split.shards[number].name, split.base).files


@pytest.mark.parametrize(
    ("name", "value"),
    [("file", 9), ("size", -1), ("description_end", -5), ("files/folder", 3), ("crc32", None)],
)
def test_a_shard_of_references_that_points_nowhere_is_refused(tmp_path: Path, name: str, value: int | None) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "reference")
    path = split.folder / split.shards[0].name
    arrays = {key: np.array(array) for key, array in read_arrays(path).arrays.items()}
    if value is None:
        del arrays[name]
    else:
        arrays[name][0] = value
    write_arrays(path, arrays, {"kind": "references"})
    with pytest.raises(DamagedError, match="not a shard of references"):
        open_references(path, split.base)


def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "reference")
    path = split.folder / split.shards[0].name
    arrays = {key: np.array(array) for key, array in read_arrays(path).arrays.items()}
    arrays["files/name"] = np.array([b"../secret"] * len(arrays["files/name"]))
    write_arrays(path, arrays, {"kind": "references"})
    with pytest.raises(DamagedError, match=r"'\.\./secret', which leads elsewhere"):
        open_references(path, split.base).check_files()


def test_the_default_keeps_the_parameters_of_earlier_projects(tmp_path: Path) -> None:
    assert "mode" not in PackParams().model_dump()
    assert PackParams(mode="reference").model_dump()["mode"] == "reference"


def test_samples_are_held_as_objects_only_where_further_captions_are_matched_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million samples as objects of 600 bytes are 600 MB."""
    held: list[int] = []

    def hold(job: PackJob, outcome: PackResult) -> list[Entry]:
        held.append(len(job.entries))
        return keep(job, outcome)

    keep = pack_module._kept_entries
    monkeypatch.setattr(pack_module, "_kept_entries", hold)
    packed(tmp_path / "without", tars(tmp_path / "tars", "train"), "reference")
    assert held == []
    more = {"seen": {"file": str(write_further_captions(tmp_path / "seen.jsonl"))}}
    sample = {"source": "sample", "part": "train", "images": PARTS["train"], "caption_files": more}
    packed(tmp_path / "with", sample, "copy")
    assert sum(held) == PARTS["train"]  # Negative control.
