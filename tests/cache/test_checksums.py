"""A sealed list vouches for the files of a folder: what is damaged, missing or not listed is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.checksums import CHECKSUMS, Checksums, read_checksums, write_checksums
from cache.errors import DamagedError, MissingError

REMEDY = "Make it again."


@pytest.fixture
def listed(tmp_path: Path) -> Checksums:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "below" / "b.txt").write_text("two")
    write_checksums(tmp_path / CHECKSUMS, ["below/b.txt", "a.txt"], {"of": "a test"})
    return read_checksums(tmp_path / CHECKSUMS, REMEDY)


def test_whole_files_are_read_and_have_no_faults(listed: Checksums) -> None:
    assert listed.read("a.txt") == b"one"
    assert list(listed.sha256) == ["a.txt", "below/b.txt"]
    assert listed.facts == {"of": "a test"}
    assert list(listed.faults()) == []


def test_damaged_missing_and_unlisted_files_are_named_with_what_to_do(listed: Checksums) -> None:
    folder = listed.path.parent
    (folder / "a.txt").write_text("onf")
    for read in (listed.read, listed.verify):
        with pytest.raises(DamagedError, match=r"a.txt: damaged: SHA-256 \w+, checksums.json says \w{12}. Make"):
            read("a.txt")
    (folder / "below" / "b.txt").unlink()
    for read in (listed.read, listed.verify):
        with pytest.raises(MissingError, match=r"b.txt: missing, though checksums.json lists it. Make it again."):
            read("below/b.txt")
    assert len(list(listed.faults())) == 2
    (folder / "c.txt").write_text("three")
    with pytest.raises(DamagedError, match=r"checksums.json does not list it"):
        listed.read("c.txt")


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "below/../../outside"])
def test_a_list_that_leads_out_of_its_folder_is_refused(listed: Checksums, name: str) -> None:
    value = read_checksummed_json(listed.path)
    write_checksummed_json(listed.path, {**value, "files": {name: "0" * 64}})
    with pytest.raises(DamagedError, match="names files outside of its folder"):
        read_checksums(listed.path, REMEDY)


@pytest.mark.parametrize("change", [{"format": 2}, {"files": []}, {"facts": None}])
def test_a_list_of_another_shape_is_refused(listed: Checksums, change: dict[str, Any]) -> None:
    write_checksummed_json(listed.path, {**read_checksummed_json(listed.path), **change})
    with pytest.raises(DamagedError, match="not a list of files that this version writes"):
        read_checksums(listed.path, REMEDY)
