"""Sources in a dataset repository of the Hub: what is packed of them is what local files would have given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StaleError
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.project.errors import RemoteError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.remote import objects
from pipeline.project.remote.clients import open_client
from pipeline.project.remote.objects import list_objects, object_state, put_object, read_range
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.retries import RetryPolicy
from tests.data.packing.test_references import packed, samples, tars
from tests.data.packing.test_remote_sources import at_url, files
from tests.data.sources.test_sources import coco, image
from tests.factories.dataset_hub import NAME, DatasetHub

pytestmark = pytest.mark.process
URL = f"hf://datasets/{NAME}"
SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tars": lambda folder: tars(folder / "tars", "train"),
    "coco": lambda folder: coco(folder, {f"{n:02d} ü.png": [f"caption {n}"] for n in range(8)}),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    from huggingface_hub import constants

    (tmp_path / "set").mkdir()
    server = DatasetHub(tmp_path / "set")
    monkeypatch.setattr(constants, "ENDPOINT", server.address)  # what HF_ENDPOINT sets when a program starts
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(first_pause_seconds=0.02))
    open_client.cache_clear()
    yield server
    open_client.cache_clear()
    server.close()


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("url", [URL, f"{URL}@main"])
def test_a_source_in_a_repository_is_packed_to_the_bytes_of_a_local_one(
    hub: DatasetHub, tmp_path: Path, kind: str, url: str
) -> None:
    value = SOURCES[kind](tmp_path / "set/data")
    remote = at_url(value, tmp_path / "set", url)
    local = packed(tmp_path / "local", value, "copy")
    assert files(packed(tmp_path / "copy", remote, "copy")) == files(local)
    assert samples(packed(tmp_path / "reference", remote, "reference")) == samples(local)
    assert hub.asked["tree"] <= 6  # a folder is listed by `index` and `pack`, not for each read


def test_the_index_notes_versions_and_a_file_that_was_replaced_is_named(hub: DatasetHub, tmp_path: Path) -> None:
    value = coco(tmp_path / "set", {f"{n}.png": [f"caption {n}"] for n in range(3)})
    remote = at_url(value, tmp_path / "set", URL)
    found = json.loads(index("train", parse_source(remote, "index.train"), Layout(tmp_path)).read_text())
    place = tmp_path / "set/images/1.png"
    assert found["versions"]["1.png"] == hub.entry(place)["oid"]
    assert object_state(RemotePath(f"{URL}/images/1.png")).version == hub.entry(place)["oid"]
    split = packed(tmp_path, remote, "reference")
    assert len(samples(split)) == 3
    assert len(image(7)) == place.stat().st_size
    place.write_bytes(image(7))
    with pytest.raises(StaleError, match=r"images/1\.png: version '\w+', and '\w+' when it was packed by reference"):
        samples(split)
    assert len(samples(packed(tmp_path, remote, "reference"))) == 3


def test_a_repository_that_is_missing_or_private_or_fails_is_one_line(
    hub: DatasetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / "a").write_bytes(b"abc")
    assert read_range(RemotePath(f"{URL}/a"), 1, 2) == b"bc"
    with pytest.raises(FileNotFoundError, match="no such object"):
        object_state(RemotePath(f"{URL}/b"))
    with pytest.raises(FileNotFoundError, match="no such object"):
        read_range(RemotePath(f"{URL}/b"), 0, 1)
    assert list_objects(RemotePath(f"{URL}/none")) == {}
    with pytest.raises(RemoteError, match=r"repository not found, or no access to it\. .*HF_TOKEN"):
        list_objects(RemotePath("hf://datasets/me/other/x"))
    with pytest.raises(RemoteError, match="revision not found, or no access"):
        list_objects(RemotePath(f"{URL}@v2/x"))
    with pytest.raises(RemoteError, match="refused: "):
        list_objects(RemotePath("hf://x"))
    with pytest.raises(UsageError, match="hf:// is read only"):
        put_object(RemotePath(f"{URL}/c"), b"")
    hub.fail, hub.status = 1 << 20, 403
    with pytest.raises(RemoteError, match=r"access denied: .*HF_TOKEN"):
        object_state(RemotePath(f"{URL}/a"))
    hub.fail = 1
    hub.status = 500
    assert object_state(RemotePath(f"{URL}/a")).size == 3
    hub.token, hub.fail = "hf_a_token_of_the_loopback", 0
    open_client.cache_clear()
    with pytest.raises(RemoteError, match="repository not found, or no access to it"):
        list_objects(RemotePath(URL))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    open_client.cache_clear()
    assert list(list_objects(RemotePath(URL))) == ["a"]
