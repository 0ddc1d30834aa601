from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.atomic import write_checksummed_json
from cache.errors import DamagedError, MissingError
from pipeline.data.images import encode_png
from pipeline.data.packing.contents import ContentDigest
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed, read_tar, write_tar
from pipeline.data.sources.listing import Choice, make_key

PNG = encode_png(np.zeros((4, 4, 3), np.uint8))
SAMPLES = (
    Sample("a", PNG, "png", ("a cat", "Ça — 猫"), None, "1"),
    Sample("b/c", b"\xff\xd8 not looked at here", "jpg", (), 3, "b/c.jpg"),
)


def pack_of(folder: Path, samples: tuple[Sample, ...] = SAMPLES) -> PackedSplit:
    shard = write_tar(folder / "shard-00000.tar", samples)
    packed = PackedSplit(folder, folder.name, ("x", "y"), ("a {c}",), (shard,), {"packed": shard.rows})
    write_checksummed_json(folder / "manifest.json", packed.manifest())
    return packed


TEXTS = st.text(st.characters(exclude_categories=()), max_size=9)
"""Surrogates among them: names of files that are not UTF-8 have them."""
CHOICES = st.lists(st.builds(Choice, TEXTS, st.tuples(TEXTS), TEXTS, TEXTS), max_size=2).map(tuple)


@settings(max_examples=200, deadline=None)
@given(
    samples=st.lists(
        st.builds(
            Sample,
            key=TEXTS,
            image=st.just(b"x"),
            extension=st.just("jpg"),
            captions=st.lists(TEXTS, max_size=3).map(tuple),
            label=st.none() | st.integers(0, 1 << 40),
            source=TEXTS,
            choices=CHOICES,
        ),
        max_size=3,
    )
)
def test_descriptions_and_the_digest_of_captions_are_json_as_pythons_encoder_writes_it(samples: list[Sample]) -> None:
    canonical = partial(json.dumps, sort_keys=True, separators=(",", ":"))  # the oracle
    contents, lines = ContentDigest(), ""
    for sample in samples:
        contents.add(sample)
        lines += canonical([sample.key, sample.captions, *sample.choices])
        described: dict[str, Any] = {"captions": sample.captions, "source": sample.source}
        described |= {} if sample.label is None else {"label": sample.label}
        described |= {"choices": [choice._asdict() for choice in sample.choices]} if sample.choices else {}
        assert sample.description() == canonical(described).encode()
    assert contents.shard("x", 0, "").captions_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_samples_come_back_from_a_shard_as_they_went_in(tmp_path: Path) -> None:
    pack_of(tmp_path)
    packed = open_packed(tmp_path)
    assert tuple(packed.read(0)) == SAMPLES
    assert (packed.rows, packed.classes, packed.templates) == (2, ("x", "y"), ("a {c}",))


def test_the_standard_tar_reader_finds_the_same_files_without_time_or_owner(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", SAMPLES)
    with tarfile.open(tmp_path / "s.tar") as tar:  # the oracle: it shares no code with the writer
        assert tar.getnames() == ["a.png", "a.json", "b/c.jpg", "b/c.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode, m.isreg()) for m in tar} == {(0, 0, 0, "", 0o644, True)}
        found = tar.extractfile("a.png")
        assert found is not None
        assert found.read() == PNG


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its file to the collector
def test_webdataset_itself_reads_a_packed_shard(tmp_path: Path) -> None:
    import webdataset

    write_tar(tmp_path / "s.tar", SAMPLES)
    found = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == ["a", "b/c"]
    assert found[0]["png"] == PNG


def test_writing_the_same_samples_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_tar(tmp_path / "1.tar", SAMPLES), write_tar(tmp_path / "2.tar", iter(SAMPLES))
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert first.sha256 == second.sha256


def test_captions_and_images_have_hashes_of_their_own(tmp_path: Path) -> None:
    a, b = SAMPLES
    before = write_tar(tmp_path / "s.tar", SAMPLES)
    other_caption = write_tar(tmp_path / "s.tar", (Sample("a", a.image, "png", ("a dog",), None, "1"), b))
    other_image = write_tar(tmp_path / "s.tar", (Sample("a", a.image[:-1] + b"x", "png", a.captions, None, "1"), b))
    other_label = write_tar(tmp_path / "s.tar", (a, Sample(b.key, b.image, "jpg", (), 4, b.source)))
    assert other_caption.images_sha256 == before.images_sha256
    assert other_caption.captions_sha256 != before.captions_sha256
    assert other_image.images_sha256 != before.images_sha256
    assert other_image.captions_sha256 == before.captions_sha256
    assert other_label.images_sha256 != before.images_sha256


@pytest.mark.parametrize("damage", [lambda b: b[:-512], lambda b: b + b"\0", lambda b: b[:700] + b"?" + b[701:]])
def test_a_shard_that_is_not_what_was_packed_is_refused_with_its_name(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    packed = pack_of(tmp_path)
    path = tmp_path / "shard-00000.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedError, match=r"shard-00000\.tar: .* but its manifest says .* Run `pack` again"):
        list(packed.read(0))


def test_a_missing_shard_and_a_missing_manifest_say_what_to_run(tmp_path: Path) -> None:
    packed = pack_of(tmp_path)
    (tmp_path / "shard-00000.tar").unlink()
    with pytest.raises(MissingError, match="no such shard"):
        list(packed.read(0))
    with pytest.raises(MissingError, match="pack --split nowhere"):
        open_packed(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "shards": [{"name": "x"}]}'])
def test_a_manifest_of_another_shape_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        open_packed(tmp_path)


def test_a_manifest_that_counts_more_rows_than_the_shard_has_is_refused(tmp_path: Path) -> None:
    packed = pack_of(tmp_path)
    manifest = packed.manifest()
    manifest["shards"][0]["rows"] = 3
    write_checksummed_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(DamagedError, match="2 samples, but its manifest says 3"):
        list(open_packed(tmp_path).read(0))


def test_a_manifest_edited_by_hand_is_refused(tmp_path: Path) -> None:
    pack_of(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"packed": 2', '"packed": 3'))
    with pytest.raises(DamagedError, match="the seal says"):
        open_packed(tmp_path)


def test_half_a_sample_in_a_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(DamagedError, match="sample 'a' has no image"):
        list(read_tar(tmp_path / "s.tar"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.lists(st.text(), max_size=3))
def test_any_name_and_any_caption_survive_packing(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], captions: list[str]
) -> None:
    keys = sorted({make_key(name.replace("/", "-").encode("utf-8", "replace").decode()) for name in names})
    samples = tuple(Sample(key, PNG, "png", tuple(captions), None, key) for key in keys)
    path = tmp_path_factory.mktemp("s") / "s.tar"
    write_tar(path, samples)
    assert tuple(read_tar(path)) == samples


def test_a_damaged_tar_that_was_not_hashed_is_one_line_too(tmp_path: Path) -> None:
    """`verify` reads shards that it has hashed already by their size alone, also those that were damaged."""
    folder = tmp_path / "val"
    shard = write_tar(folder / "shard-00000.tar", [Sample(f"k{i}", b"\xff\xd8" * 40, "jpg") for i in range(4)])
    packed, path = PackedSplit(folder, "val", (), (), (shard,), {}), folder / shard.name
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with contextlib.suppress(DamagedError):
            list(packed.read(0, "size"))
        with pytest.raises(DamagedError, match=r"shard-00000.tar: SHA-256"):
            list(packed.read(0))
