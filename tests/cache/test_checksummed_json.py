"""A JSON file that was changed by one byte is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.atomic import LIMIT_BYTES, read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, MissingError

VALUE = {"split": "train", "rows": 500, "shards": [{"name": "shard-00000.tar", "rows": 500}]}


def test_what_was_sealed_is_read_back(tmp_path: Path) -> None:
    write_checksummed_json(tmp_path / "manifest.json", VALUE)
    assert read_checksummed_json(tmp_path / "manifest.json") == VALUE
    assert json.loads((tmp_path / "manifest.json").read_text())["rows"] == 500  # plain JSON to everybody else


KEYS = st.text(max_size=5) | st.sampled_from(["seal", "seal\ud800", "sea", "seam", "\udc80", '"seal": "', "\n", "\\"])
NESTED = st.recursive(st.none() | st.text(max_size=9), lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS, x))


@settings(max_examples=30)  # each syncs a file to the disk
@given(value=st.dictionaries(KEYS.filter(lambda key: key != "seal"), NESTED, max_size=6))
def test_the_seal_is_the_hash_of_the_file_without_it_and_one_of_its_sorted_keys(value: dict[str, Any]) -> None:
    """By the standard library alone: a file of another writer of this format is read too."""

    def render(value: dict[str, Any]) -> bytes:
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
        return f"{text}\n".encode("utf-8", "backslashreplace")

    with TemporaryDirectory() as folder:
        path = Path(folder) / "file.json"
        write_checksummed_json(path, value)
        assert path.read_bytes() == render({**value, "seal": hashlib.sha256(render(value)).hexdigest()})
        assert render(read_checksummed_json(path)) == render(value)


def test_lines_in_another_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_checksummed_json(path, VALUE)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (place,) = (number for number, line in enumerate(lines) if line.startswith(' "seal"'))
    path.write_text("".join([lines[0], lines.pop(place), *lines[1:]]), encoding="utf-8")
    assert json.loads(path.read_bytes())
    with pytest.raises(DamagedError, match="the seal says"):
        read_checksummed_json(path)


def test_every_single_byte_is_under_the_seal(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_checksummed_json(path, VALUE)
    data = path.read_bytes()
    for position in range(len(data)):
        for change in (
            data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :],
            data[:position],
            data[:position] + b" " + data[position:],
        ):
            path.write_bytes(change)
            with pytest.raises(DamagedError, match=r"manifest\.json"):
                read_checksummed_json(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "null",
        '{"a": 1}',
        '{"seal": 3}',
        "[" * 100_000,
        "\ud800",
        '{"a": NaN, "seal": "x"}',
        '{"a": "\\ud800", "seal": "x"}',
        "{}",
    ],
)
def test_what_is_no_sealed_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DamagedError):
        read_checksummed_json(tmp_path / "file")


def test_a_file_larger_than_any_manifest_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(DamagedError, match="more than any manifest"):
        read_checksummed_json(tmp_path / "file")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="manifest"):
        read_checksummed_json(tmp_path / "manifest.json")


def test_a_folder_in_its_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(DamagedError, match="cannot be read"):
        read_checksummed_json(tmp_path / "file")
