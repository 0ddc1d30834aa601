"""Azure's and Google's object storage, against emulators that whoever runs these tests has started.

Neither the clients nor the emulators are in the lock. Without the two variables the tests are skipped:

    pip install --target SITE adlfs gcsfs && npm install azurite
    node_modules/.bin/azurite-blob --blobPort 10900 --skipApiVersionCheck
    export PYTHONPATH=SITE AZURE_STORAGE_CONNECTION_STRING="DefaultEndpointsProtocol=http;AccountName=…;AccountKey=…;
    BlobEndpoint=http://127.0.0.1:10900/devstoreaccount1;" WCLIP_TEST_AZ=az://CONTAINER
    export STORAGE_EMULATOR_HOST=http://127.0.0.1:9924 WCLIP_TEST_GS=gs://BUCKET    # googleapis/storage-testbench
    pytest tests/project/remote/test_emulators.py

Container and bucket must exist; each test takes a prefix of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.errors import LockedError
from pipeline.embed import EmbedParams, embed
from pipeline.project.errors import RemoteError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.remote import objects
from pipeline.project.remote.clients import open_client
from pipeline.project.remote.lock import remote_lock
from pipeline.project.remote.objects import (
    create_object,
    delete_object,
    list_objects,
    object_state,
    put_file,
    put_object,
    read_object,
    read_range,
)
from pipeline.project.remote.paths import RemotePath, parse_url
from pipeline.project.remote.retries import RetryPolicy
from pipeline.project.remote.store import put_export
from pipeline.teacher.params import TeacherParams
from tests.data.packing.test_references import packed, samples, tars
from tests.data.packing.test_remote_sources import at_url, files
from tests.data.sources.test_sources import coco
from tests.factories.object_storage import FaultyProxy

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),  # how both clients put what we give them
]
DATA = bytes(range(256)) * 40
ENDPOINTS = {"WCLIP_TEST_AZ": "AZURE_STORAGE_CONNECTION_STRING", "WCLIP_TEST_GS": "STORAGE_EMULATOR_HOST"}
"""Variables that name a container or a bucket, and those in which a client finds the address of its server."""


@dataclass(frozen=True)
class Port:
    """A server on the loopback."""

    port: int


def split_endpoint(variable: str) -> tuple[str, str, str]:
    """Return what stands before the port of a server, the port, and what stands after it."""
    found = re.search(r"(.*127\.0\.0\.1:)(\d+)(.*)", os.environ[ENDPOINTS[variable]])
    assert found is not None, f"{ENDPOINTS[variable]} names no server at 127.0.0.1"
    return found[1], found[2], found[3]


@pytest.fixture(params=ENDPOINTS)
def variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param not in os.environ:
        pytest.skip(f"{request.param} names no container or bucket of an emulator: see the head of this file")
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(first_pause_seconds=0.02, read_seconds=1.0))
    open_client.cache_clear()
    yield request.param
    open_client.cache_clear()


@pytest.fixture
def root(variable: str) -> RemotePath:
    return parse_url(os.environ[variable]) / secrets.token_hex(6)


@pytest.fixture
def proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    before, port, after = split_endpoint(variable)
    between = FaultyProxy(Port(int(port)), ("500", "hang", "cut", "short"), share=1 / 3)
    monkeypatch.setenv(ENDPOINTS[variable], f"{before}{between.server_port}{after}")
    yield between
    between.close()


def upload(folder: Path, target: RemotePath) -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put_file(path, target / path.relative_to(folder).as_posix())
    return str(target)


def test_objects_are_put_read_listed_and_deleted(root: RemotePath, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(large := DATA * 1000)
    put_file(tmp_path / "file", root / "a/größe #1?.bin")
    put_object(root / "a/x", DATA)
    assert read_object(root / "a/größe #1?.bin", 1 << 30) == large
    assert read_range(root / "a/x", 100, 300) == DATA[100:400]
    assert {name: state.size for name, state in list_objects(root).items()} == {
        "a/größe #1?.bin": len(large),
        "a/x": len(DATA),
    }
    assert list_objects(root / "a")["x"] == object_state(root / "a/x")
    with pytest.raises(NotADirectoryError):
        list_objects(root / "a/x")
    assert list_objects(root / "none") == {}
    with pytest.raises(FileNotFoundError, match="no such object"):
        read_range(root / "a", 0, 1)
    delete_object(root / "a/x")
    delete_object(root / "a/x")
    with pytest.raises(FileNotFoundError):
        object_state(root / "a/x")


def test_a_version_changes_with_the_bytes(root: RemotePath) -> None:
    put_object(root / "a", b"one")
    before = object_state(root / "a")
    assert object_state(root / "a") == before
    assert before.version
    put_object(root / "a", b"two")
    assert object_state(root / "a").size == before.size
    assert object_state(root / "a") != before


def test_of_many_who_create_the_same_object_one_has_created_it(root: RemotePath) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: create_object(root / "a", b"%d" % n), range(8)))
    assert created.count(True) == 1
    assert read_object(root / "a", 100) == b"%d" % created.index(True)


def test_a_second_writer_is_refused_and_admitted_after_the_first(root: RemotePath) -> None:
    with (
        remote_lock(root, "embed-0"),
        pytest.raises(LockedError, match=r"held by process \d+ on .* its lease ends in (5\d\d|600) s"),
    ):
        remote_lock(root, "embed-0").__enter__()
    with remote_lock(root, "embed-0", seconds=2.0):
        time.sleep(2.5)  # renewed meanwhile
        with pytest.raises(LockedError):
            remote_lock(root, "embed-0").__enter__()
    assert list(list_objects(root / "locks" / "embed-0")) == ["all/00000002.json"]


@pytest.mark.parametrize("kind", ["tars", "coco"])
def test_a_sample_is_packed_embedded_and_exported_through_faults_to_the_bytes_of_local_files(
    root: RemotePath, proxy: FaultyProxy, tmp_path: Path, tiny_teacher: str, kind: str
) -> None:
    makers: dict[str, Callable[[Path], dict[str, object]]] = {
        "tars": lambda folder: tars(folder, "train"),
        "coco": lambda folder: coco(folder, {f"{n:02d} ü.png": [f"caption {n}"] for n in range(14)}),
    }
    value = makers[kind](tmp_path / "set")
    remote = at_url(value, tmp_path / "set", upload(tmp_path / "set", root / "set"))
    local = packed(tmp_path / "local", value, "copy")
    assert files(packed(tmp_path / "copy", remote, "copy")) == files(local)
    assert samples(packed(tmp_path / "reference", remote, "reference")) == samples(local)
    params = EmbedParams(teacher=TeacherParams(model=tiny_teacher))
    alone = Runtime(device="cpu", workers=0, batch=4)
    shared = Runtime(device="cpu", workers=0, batch=4, remote=root / "shards")
    expected = tree(embed("train", params, Layout(tmp_path / "local"), alone))
    assert tree(embed("train", params, Layout(tmp_path / "copy"), shared)) == expected
    (tmp_path / "other/data").mkdir(parents=True)
    (tmp_path / "local/data/packed").rename(tmp_path / "other/data/packed")
    fetched = embed("train", params, Layout(tmp_path / "other"), shared)
    assert tree(fetched) == expected
    put_export(fetched, root / "exported")
    assert {name: read_object(root / "exported" / name, 1 << 30) for name in expected} == expected
    assert sum(proxy.injected.values()) > 10
    secret = re.search(r"AccountKey=([^;]+)", os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    made = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert secret is None or not any(secret[1].encode() in data for data in made)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bucket_that_is_missing_and_a_server_that_is_down_are_one_line_without_a_credential(
    variable: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    protocol = parse_url(os.environ[variable]).protocol
    with pytest.raises(RemoteError, match="no such bucket or container"):
        put_object(parse_url(f"{protocol}://nobody/a"), b"")
    before, _, after = split_endpoint(variable)
    monkeypatch.setenv(ENDPOINTS[variable], f"{before}9{after}")
    open_client.cache_clear()
    with pytest.raises(RemoteError, match="gave up after 6 attempts") as error:
        read_range(parse_url(os.environ[variable]) / "a", 0, 1)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_key_that_is_wrong_is_access_denied_and_none_is_no_credentials(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable != "WCLIP_TEST_AZ":
        pytest.skip("this emulator takes every credential")
    place, text = parse_url(os.environ[variable]) / "a", os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    wrong = "d3Jvbmcta2V5LW9mLWEtdGVzdA=="
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", re.sub(r"AccountKey=[^;]+", f"AccountKey={wrong}", text))
    open_client.cache_clear()
    with pytest.raises(RemoteError, match=r"access denied: .*AZURE_STORAGE_CONNECTION_STRING") as error:
        read_range(place, 0, 1)
    assert wrong not in str(error.value)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountKey={wrong}")
    open_client.cache_clear()
    with pytest.raises(RemoteError, match="az://: no credentials: ") as error:
        read_range(place, 0, 1)
    assert wrong not in str(error.value)
