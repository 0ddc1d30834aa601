from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.project.errors import RemoteError, UsageError
from pipeline.project.remote import objects
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
from pipeline.project.remote.retries import RetryPolicy, retry
from tests import ROOT
from tests.factories.object_storage import BUCKET, CREDENTIALS, FaultyProxy, S3Server

DATA = bytes(range(256)) * 40


def at(name: str) -> RemotePath:
    return RemotePath(f"s3://{BUCKET}/{name}")


def test_what_is_put_is_what_the_server_has_and_what_is_read(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    put_file(tmp_path / "file", at("objects/file"))
    put_object(at("objects/deep/er"), b"abc")
    assert s3.request("GET", "objects/file") == DATA
    assert read_object(at("objects/file"), 1 << 20) == DATA
    assert read_range(at("objects/file"), 100, 300) == DATA[100:400]
    assert {name: state.size for name, state in list_objects(at("objects")).items()} == {"deep/er": 3, "file": 10240}


def test_a_large_object_goes_up_and_comes_down_in_parts(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 1 << 20)
    (tmp_path / "file").write_bytes(large := DATA * 400)
    put_file(tmp_path / "file", at("parts/file"))
    assert s3.request("GET", "parts/file") == large
    assert read_object(at("parts/file"), 1 << 30) == large
    with pytest.raises(OSError, match="4096000 bytes, more than the 4095999 that are read of it"):
        read_object(at("parts/file"), len(large) - 1)


def test_the_state_of_an_object_changes_with_its_bytes_and_not_with_its_length(s3: S3Server) -> None:
    put_object(at("state/a"), b"one")
    before = object_state(at("state/a"))
    put_object(at("state/a"), b"one")
    assert object_state(at("state/a")) == before
    put_object(at("state/a"), b"two")
    assert object_state(at("state/a")).size == before.size
    assert object_state(at("state/a")) != before


def test_what_is_missing_is_said_at_once_and_deleting_it_is_no_error(s3: S3Server) -> None:
    with pytest.raises(FileNotFoundError, match="no such object"):
        read_object(at("missing"), 10)
    with pytest.raises(FileNotFoundError):
        read_range(RemotePath("s3://no-such-bucket/a"), 0, 10)
    assert list_objects(at("missing")) == {}
    delete_object(at("missing"))


def test_of_many_who_create_the_same_object_one_has_created_it(s3: S3Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: create_object(at("create/a"), b"%d" % n), range(8)))
    assert created.count(True) == 1
    assert s3.request("GET", "create/a") == b"%d" % created.index(True)
    # Negative control: without the condition, each of them would have put its own.
    put_object(at("create/a"), b"another")
    assert s3.request("GET", "create/a") == b"another"


def test_every_way_to_fail_is_tried_again_until_all_bytes_are_right(faulty_s3: FaultyProxy, tmp_path: Path) -> None:
    written = {f"{number:02d}": bytes([number]) * (1000 + number) for number in range(20)}
    for name, data in written.items():
        put_object(at(f"faults/{name}"), data)
    for _ in range(3):
        listing = list_objects(at("faults"))
        assert {name: state.size for name, state in listing.items()} == {name: len(d) for name, d in written.items()}
        assert {name: read_object(at(f"faults/{name}"), 1 << 20) for name in written} == written
    assert set(faulty_s3.injected) == {"500", "hang", "cut", "short", "slow-down"}
    assert sum(faulty_s3.injected.values()) > 30


def test_without_a_second_attempt_each_of_these_faults_is_an_error(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_object(at("once/a"), DATA)
    proxy = FaultyProxy(s3, (), share=1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(attempts=1, read_seconds=1.0))
    for number, fault in enumerate(("500", "hang", "cut", "short", "slow-down")):
        proxy.faults = (fault,)
        with pytest.raises(
            RemoteError, match=r"gave up after 1 attempts in \d+\.\d s, the last: .*Run the same command"
        ):
            list_objects(at("once")) if fault == "slow-down" else read_range(at("once/a"), number, 100)
        assert proxy.injected[fault] == 1
    assert proxy.requests == 5
    proxy.close()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://name:hidden-password@127.0.0.1:9", "gave up after 2 attempts"),
        ("http://127.0.0.1:9/?X-Amz-Signature=hidden-signature", "refused"),
    ],
)
def test_an_endpoint_that_is_none_is_one_line_without_a_credential(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, endpoint: str, expected: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(attempts=2, first_pause_seconds=0.01))
    with pytest.raises(RemoteError, match=expected) as error:
        read_range(at("a"), 0, 1)
    assert not any(secret in str(error.value) for secret in ("hidden", *CREDENTIALS.values()))
    assert "\n" not in str(error.value)


def test_missing_credentials_are_said_and_not_tried_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(RemoteError, match=r"no credentials: .* the environment \(AWS_PROFILE, .*: docs/data.md"):
        read_range(at("a"), 0, 1)


def test_an_interrupted_request_for_a_google_token_is_tried_again_and_missing_credentials_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its client is not in the lock: these are its exceptions, each of which is a GoogleAuthError."""
    base = type("GoogleAuthError", (Exception,), {"retryable": False})
    transport, refused = type("TransportError", (base,), {}), type("RefreshError", (base,), {})
    busy = type("RefreshError", (base,), {"retryable": True})
    module = ModuleType("google.auth.exceptions")
    vars(module)["GoogleAuthError"] = base
    monkeypatch.setitem(sys.modules, "google.auth.exceptions", module)

    def attempts(kind: type[Exception], failures: int = 2) -> int:
        """Return how often something is tried that fails a few times."""
        tried: list[int] = []

        def attempt() -> int:
            tried.append(1)
            if len(tried) <= failures:
                raise kind("reset by peer")
            return len(tried)

        return retry(RemotePath("gs://bucket/a"), attempt, RetryPolicy(attempts=3, first_pause_seconds=0.001))

    assert [attempts(transport), attempts(busy)] == [3, 3]
    with pytest.raises(RemoteError, match=r"gave up after 3 attempts .*TransportError \(reset by peer\)"):
        attempts(transport, 3)
    for kind in (refused, base):
        with pytest.raises(RemoteError, match=rf"no credentials: {kind.__name__} .*GOOGLE_APPLICATION_CREDENTIALS"):
            attempts(kind, 1)


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="needs the package adlfs, which is not installed: pip install adlfs"):
        read_range(parse_url("az://container/a"), 0, 1)


def test_the_web_is_read_only() -> None:
    with pytest.raises(UsageError, match="https:// is read only"):
        put_object(parse_url("https://example.org/a"), b"")


def test_neither_the_command_line_nor_a_local_source_imports_a_client_of_object_storage(s3: S3Server) -> None:
    clients = ("fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp")
    program = (
        "import sys, cli, pipeline.pack, pipeline.index, pipeline.data.sources.webdataset\n"
        f"print(sorted({set(clients)} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
    # Negative control: here, where an object was asked for, they are all there.
    assert list_objects(at("imports")) == {}
    assert set(clients) <= sys.modules.keys()
