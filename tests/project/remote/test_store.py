from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.store import RemoteStore
from tests.factories.object_storage import BUCKET, FaultyProxy, S3Server

DATA = bytes(range(256)) * 100


def store(prefix: str) -> RemoteStore:
    return RemoteStore(RemotePath(f"s3://{BUCKET}/{prefix}"))


def file(folder: Path, data: bytes = DATA) -> Path:
    (folder / "shard.h5").write_bytes(data)
    return folder / "shard.h5"


def test_what_one_machine_puts_another_fetches_to_the_byte(faulty_s3: FaultyProxy, tmp_path: Path) -> None:
    one, other = store("fetch"), pickle.loads(pickle.dumps(store("fetch")))  # noqa: S301  our own bytes
    for number in range(6):
        one.put(f"embed-{number}", file(tmp_path, DATA + bytes([number])))
        found = other.fetch(f"embed-{number}", "shard.h5", tmp_path / "there")
        assert found == tmp_path / "there" / "shard.h5"
        assert found.read_bytes() == DATA + bytes([number])
    assert sum(faulty_s3.injected.values()) > 5
    assert other.names("embed-0") == ["shard.h5"]


def test_a_file_without_a_record_is_not_there(s3: S3Server, tmp_path: Path) -> None:
    half = store("half")
    half.put("embed-0", file(tmp_path))
    s3.request("DELETE", "half/embed-0/shard.h5.sha256.json")
    assert half.fetch("embed-0", "shard.h5", tmp_path / "there") is None
    assert half.names("embed-0") == []
    assert not (tmp_path / "there").exists()
    half.put("embed-0", file(tmp_path))  # negative control: it was the record
    assert half.names("embed-0") == ["shard.h5"]


@pytest.mark.parametrize("damage", [DATA[:-1], DATA[:-1] + b"x", b""])
def test_a_file_that_lies_there_damaged_is_not_fetched_and_is_put_anew(
    s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    damaged = store(f"damaged-{len(damage)}-{damage[-1:].hex()}")
    damaged.put("embed-0", file(tmp_path))
    s3.request("PUT", f"{damaged.root.name}/embed-0/shard.h5", damage)
    assert damaged.fetch("embed-0", "shard.h5", tmp_path / "there") is None
    assert "its record says" in capsys.readouterr().err
    assert not (tmp_path / "there" / "shard.h5").exists()
    damaged.put("embed-0", file(tmp_path, DATA[::-1]))
    found = damaged.fetch("embed-0", "shard.h5", tmp_path / "there")
    assert found is not None
    assert found.read_bytes() == DATA[::-1]


def test_the_first_to_say_something_decides_it_for_all(s3: S3Server, tmp_path: Path) -> None:
    for name, text in {"one": "first", "other": "second"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "work.json").write_text(text)
        store("settle").settle("embed-0", tmp_path / name / "work.json")
    assert (tmp_path / "other" / "work.json").read_text() == "first"
    assert not store("settle").adopt("embed-1", "work.json", tmp_path / "work.json")
