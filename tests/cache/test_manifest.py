"""A manifest says what made a folder, and cannot be made to say something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.atomic import write_checksummed_json
from cache.errors import DamagedError, MissingError, StaleError
from cache.fingerprint import fingerprint
from cache.manifest import NAME, Manifest, ManifestPart, ShardRecord, read_manifest, shard_name, write_manifest
from tests.factories.stores import make_store

TEACHER = {"model": "made-up", "weights": "0" * 64}


def a_part(teacher: dict[str, Any] = TEACHER, **facts: Any) -> ManifestPart:
    facts = {"teacher": teacher, **facts}
    return ManifestPart(
        fingerprint(facts),
        facts,
        (ShardRecord("shard-00000.h5", 3, "0" * 64), ShardRecord("shard-00001.h5", 2, "1" * 64)),
    )


MANIFEST = Manifest(
    "train",
    TEACHER,
    {"digest": "d"},
    {"numpy": "2"},
    4,
    {"image/view-00": a_part(view=0), "image/view-01": a_part(view=1), "text": a_part(captions="c")},
)


def test_a_manifest_comes_back_as_it_went_in(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert MANIFEST.views == 2
    assert MANIFEST.parts["text"].rows == 5


def test_two_manifests_of_the_same_things_are_the_same_bytes(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a", MANIFEST)
    write_manifest(tmp_path / "b", replace(MANIFEST, parts=dict(reversed(MANIFEST.parts.items()))))
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()


def test_a_manifest_edited_by_hand_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / NAME
    path.write_text(path.read_text().replace('"rows": 3', '"rows": 4'))
    with pytest.raises(DamagedError, match=r"manifest\.json.*seal"):
        read_manifest(tmp_path)


def test_a_folder_that_was_never_finished_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_image_and_text_from_different_weights_are_refused_with_both_teachers(tmp_path: Path) -> None:
    other = {**TEACHER, "model": "another"}
    write_manifest(tmp_path, replace(MANIFEST, parts={**MANIFEST.parts, "text": a_part(other, captions="c")}))
    with pytest.raises(StaleError, match=r"'text' was made by .*another.*the split by .*made-up.*dvc repro embed"):
        read_manifest(tmp_path)


def test_a_part_whose_facts_were_exchanged_is_refused(tmp_path: Path) -> None:
    text = replace(MANIFEST.parts["text"], facts=MANIFEST.parts["image/view-00"].facts)
    write_manifest(tmp_path, replace(MANIFEST, parts={**MANIFEST.parts, "text": text}))
    with pytest.raises(StaleError, match="'text' has fingerprint"):
        read_manifest(tmp_path)


def test_another_version_of_the_format_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    value = json.loads((tmp_path / NAME).read_text())
    del value["seal"]
    write_checksummed_json(tmp_path / NAME, {**value, "format": 2})
    with pytest.raises(StaleError, match="another format"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "shard-0.h5", "shard-00001.h5", "/shard-00000.h5", "", 3])
def test_a_shard_s_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: Any) -> None:
    part = replace(a_part(view=0), shards=(ShardRecord(name, 3, "0" * 64),))
    write_manifest(tmp_path, replace(MANIFEST, parts={"image/view-00": part}))
    with pytest.raises(DamagedError, match="not a manifest of embeddings"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["..", "image/view-0", "image/../text", "/text", "texts"])
def test_a_part_s_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: Any) -> None:
    write_manifest(tmp_path, replace(MANIFEST, parts={name: a_part(view=0)}))
    with pytest.raises(DamagedError, match="not a manifest of embeddings"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parts": []},
        {"parts": {"text": 3}},
        {"parts": None},
        {"surplus": 1},
        {"split": None},
        {"batch": "4"},
        {"teacher": []},
        {"versions": None},
        {"source": 1},
    ],
)
def test_another_structure_under_a_right_seal_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    make_store(tmp_path)
    value = json.loads((tmp_path / NAME).read_text())
    del value["seal"]
    write_checksummed_json(tmp_path / NAME, {**value, **wrong})
    with pytest.raises(DamagedError, match="not a manifest of embeddings"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("shard", [{"rows": -1}, {"rows": 1.5}, {"rows": True}, {"sha256": "0"}, {"surplus": 1}])
def test_a_shard_s_line_with_another_content_is_refused(tmp_path: Path, shard: dict[str, Any]) -> None:
    make_store(tmp_path)
    value = json.loads((tmp_path / NAME).read_text())
    del value["seal"]
    value["parts"]["text"]["shards"][0] |= shard
    write_checksummed_json(tmp_path / NAME, value)
    with pytest.raises(DamagedError, match="not a manifest of embeddings"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("part", ["image/view-01", "text"])
def test_parts_with_another_number_of_shards_are_refused(tmp_path: Path, part: str) -> None:
    short = replace(MANIFEST.parts[part], shards=MANIFEST.parts[part].shards[:1])
    write_manifest(tmp_path, replace(MANIFEST, parts={**MANIFEST.parts, part: short}))
    with pytest.raises(DamagedError, match=r"in its shards than|has 1 shards"):
        read_manifest(tmp_path)


def test_views_with_other_rows_are_refused(tmp_path: Path) -> None:
    part = replace(
        a_part(view=1), shards=(ShardRecord("shard-00000.h5", 2, "0" * 64), ShardRecord("shard-00001.h5", 3, "1" * 64))
    )
    write_manifest(tmp_path, replace(MANIFEST, parts={**MANIFEST.parts, "image/view-01": part}))
    with pytest.raises(DamagedError, match="rows"):
        read_manifest(tmp_path)


def test_a_manifest_without_images_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, replace(MANIFEST, parts={"text": a_part(captions="c")}))
    with pytest.raises(DamagedError, match="image/view-00"):
        read_manifest(tmp_path)


def test_shards_sort_by_number_up_to_ninety_nine_thousand() -> None:
    assert [shard_name(number) for number in (0, 99_999)] == ["shard-00000.h5", "shard-99999.h5"]
