from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data.errors import BadSampleError
from pipeline.data.sources.base import LoadedSample
from pipeline.data.sources.registry import parse_source
from pipeline.data.sources.tar_reader import BadTarError
from pipeline.project.errors import PipelineError, UsageError
from tests.data.sources.test_sources import image, planned
from tests.factories.tars import tar_of


def reasons(value: object) -> dict[str, str]:
    return {skip.origin: skip.reason for skip in planned(value)[2].skipped}


def test_img2datasets_layout_is_read(tmp_path: Path) -> None:
    described = json.dumps({"caption": "from json", "url": "http://x", "status": "success"}).encode()
    tar_of(
        tmp_path / "00000.tar",
        {
            "000000.jpg": image(1),
            "000000.txt": "ein Hund — 犬\n".encode(),
            "000000.json": described,
            "000001.jpg": image(2),
            "000001.json": described,
        },
    )
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "00000.parquet").write_text("")
    source, listing, plan = planned({"source": "tars", "tars": str(tmp_path)})
    assert [name for name, _ in listing.files] == ["00000.tar"]
    assert [entry.key for entry in plan.entries] == ["000000", "000001"]
    loaded = [source.load(entry) for entry in plan.entries]
    assert loaded[0].image_data == image(1)
    assert [one.captions for one in loaded] == [("ein Hund — 犬",), ("from json",)]


def test_clip_benchmarks_zero_shot_layout_is_read(tmp_path: Path) -> None:
    tar_of(tmp_path / "test" / "0.tar", {"s0.cls": b"1", "s0.webp": image(1), "s1.cls": b"0\n", "s1.webp": image(2)})
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na drawing of a {c}.\n")
    source, listing, plan = planned(
        {
            "source": "tars",
            "tars": str(tmp_path / "test"),
            "classes": str(tmp_path / "classnames.txt"),
            "templates": str(tmp_path / "zeroshot_classification_templates.txt"),
        }
    )
    assert listing.classes == ("cat", "dog")
    assert listing.templates == ("a photo of a {c}.", "a drawing of a {c}.")
    assert [source.load(entry).label for entry in plan.entries] == [1, 0]


def test_clip_benchmarks_retrieval_layout_has_a_caption_a_line(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"0.jpg": image(1), "0.txt": b"one\ntwo\nthree"})
    source, _, plan = planned({"source": "tars", "tars": str(tmp_path)})
    assert source.load(plan.entries[0]).captions == ("one", "two", "three")


def test_captions_and_labels_come_from_fields_of_ones_own(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"0.png": image(1), "0.json": json.dumps({"said": ["a", "b"], "y": 1}).encode()})
    said, _, plan = planned({"source": "tars", "tars": str(tmp_path), "caption_field": "said"})
    assert said.load(plan.entries[0]).captions == ("a", "b")
    labeled = {"source": "tars", "tars": str(tmp_path), "label_field": "y", "classes": ["x", "y"]}
    assert parse_source(labeled, "i").load(plan.entries[0]).label == 1
    bare = {"source": "tars", "tars": str(tmp_path), "captions": False}
    assert parse_source(bare, "i").load(plan.entries[0]).captions is None


def test_half_samples_are_skipped_with_the_half_that_is_there(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"a.json": b"{}", "b.jpg": image(1), "c.jpg": image(1), "c.txt": b"x"})
    captioned = {"source": "tars", "tars": str(tmp_path)}
    assert reasons(captioned) == {
        "0.tar:a": "half a sample: no image, only json",
        "0.tar:b": "half a sample: no caption (.txt, .json), only image",
    }
    assert "no label (.cls, .json), only image, txt" in reasons({**captioned, "classes": ["x"]})["0.tar:c"]
    assert list(reasons({**captioned, "captions": False})) == ["0.tar:a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"", "cannot be read"), (b"[" * 99_999, "cannot be read"), (b"[1]", "no cap"), (b'{"caption": 3}', "no cap")],
)
def test_json_of_another_shape_costs_one_sample(tmp_path: Path, text: bytes, reason: str) -> None:
    tar_of(tmp_path / "0.tar", {"a.jpg": image(1), "a.json": text})
    source, _, plan = planned({"source": "tars", "tars": str(tmp_path)})
    with pytest.raises(BadSampleError, match=reason):
        source.load(plan.entries[0])


@pytest.mark.parametrize("label", [b"", b"x", b"-1", b"1.5", b"9" * 99])
def test_a_label_that_is_no_number_costs_one_sample(tmp_path: Path, label: bytes) -> None:
    tar_of(tmp_path / "0.tar", {"a.jpg": image(1), "a.cls": label})
    source, _, plan = planned({"source": "tars", "tars": str(tmp_path), "classes": ["x"]})
    with pytest.raises(BadSampleError, match="its label is no number"):
        source.load(plan.entries[0])


def test_an_unsorted_tar_is_refused_with_its_name(tmp_path: Path) -> None:
    tar_of(tmp_path / "3.tar", {"a.jpg": image(1), "b.jpg": image(1), "a.txt": b"x", "b.txt": b"x"})
    with pytest.raises(BadTarError, match=r"3\.tar: unsorted: 'a' comes back after others"):
        planned({"source": "tars", "tars": str(tmp_path)})


def test_a_key_in_two_tars_is_used_once_and_the_other_is_listed(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        tar_of(tmp_path / name, {"a.jpg": image(1), "a.txt": b"x"})
    assert reasons({"source": "tars", "tars": str(tmp_path)}) == {"1.tar:a": "duplicate key: 0.tar:a has it already"}


def test_a_folder_without_tars_and_a_command_instead_of_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds no \.tar files"):
        planned({"source": "tars", "tars": str(tmp_path)})
    with pytest.raises(UsageError, match="no folder pipe:touch"):
        planned({"source": "tars", "tars": f"pipe:touch {tmp_path}/here"})
    assert not (tmp_path / "here").exists()


def test_a_tar_that_changes_after_listing_stops_the_run(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"a.jpg": image(1), "a.txt": b"x"})
    source, listing, plan = planned({"source": "tars", "tars": str(tmp_path)})
    with (tmp_path / "0.tar").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(PipelineError, match=r"0\.tar: not the 10240 bytes that were listed"):
        source.plan(listing)
    with pytest.raises(PipelineError, match=r"0\.tar: shorter than it was"):
        source.load(plan.entries[0])


def test_hidden_files_and_those_without_extension_are_left_as_webdataset_leaves_them(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"._a.jpg": b"mac", "README": b"x", "a.jpg": image(1), "a.txt": b"x", "a.npz": b"left"})
    _, _, plan = planned({"source": "tars", "tars": str(tmp_path)})
    assert ([entry.key for entry in plan.entries], plan.skipped) == (["a"], ())


def test_samples_read_in_order_are_those_read_one_by_one_and_a_bad_one_is_its_error(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    for tar in (0, 1):  # images after and between their texts; no two samples have the same bytes
        members = {f"{tar}{name}.png": image(10 * tar + number) for number, name in enumerate(names)}
        members |= {f"{tar}{name}.json": json.dumps({"caption": f"of {tar}{name}"}).encode() for name in names}
        members |= {f"{tar}b.cls": b"7", f"{tar}c.txt": b"one\ntwo", f"{tar}d.json": b"not JSON"}
        tar_of(tmp_path / f"{tar}.tar", dict(sorted(members.items())))
    source, _, plan = planned({"source": "tars", "tars": str(tmp_path)})
    entries = [plan.entries[row] for row in (0, 5, 1, 2, 3, 6)]  # back and forth between the tars
    loaded = list(source.load_in_order(entries))
    assert isinstance(loaded[4], BadSampleError)
    good = [row for row in range(6) if row != 4]
    assert [loaded[row] for row in good] == [source.load(entries[row]) for row in good]
    images = [one.image_data for one in loaded if isinstance(one, LoadedSample)]
    assert images == [image(number) for number in (0, 11, 1, 2, 12)]
    with pytest.raises(BadSampleError, match=str(loaded[4])[:20]):
        source.load(entries[4])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_tar_stays_open_after_samples_were_read_in_order_or_given_up(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", {"a.jpg": image(1), "a.txt": b"x", "b.jpg": image(2), "b.txt": b"x"})
    source, _, plan = planned({"source": "tars", "tars": str(tmp_path)})
    opened = open_files()
    loading = source.load_in_order(plan.entries)
    next(loading)
    assert open_files() == opened + 1  # Negative control.
    del loading  # given up
    assert len(list(source.load_in_order(plan.entries))) == 2
    assert open_files() == opened


def test_a_tar_that_vanishes_between_two_samples_is_named(tmp_path: Path) -> None:
    for tar in (0, 1):
        tar_of(tmp_path / f"{tar}.tar", {f"{tar}.jpg": image(1), f"{tar}.txt": b"x"})
    source, _, plan = planned({"source": "tars", "tars": str(tmp_path)})
    loading = source.load_in_order(plan.entries)
    next(loading)
    (tmp_path / "1.tar").unlink()
    with pytest.raises(PipelineError, match=r"1\.tar: cannot be read any more: No such file"):
        next(loading)
