"""Sources on a web server: what is packed of them is what local files would have given, through faults."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.sources.registry import parse_source
from pipeline.project.errors import RemoteError, UsageError
from pipeline.project.remote import objects
from pipeline.project.remote.clients import open_client
from pipeline.project.remote.objects import list_objects, object_state, read_range
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.retries import RetryPolicy
from tests import ROOT
from tests.data.packing.test_references import packed, samples, tars
from tests.data.packing.test_remote_sources import at_url, files
from tests.data.sources.test_sources import class_folder, coco, image
from tests.factories.object_storage import IMPATIENT, FaultyProxy
from tests.factories.tars import tar_of
from tests.factories.web_server import WebServer, write_certificate

pytestmark = pytest.mark.process
NAMES = ("a b.png", "größe.png", "1#2?.png", "50%.png", "a+b&c.png")
SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tars": lambda folder: tars(folder / "some tars", "train"),
    "coco": lambda folder: coco(folder, {name: [name, "é"] for name in NAMES}),
    "class-folder": lambda folder: class_folder(folder / "set", {"a cat": 4, "dog": 5}),
}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WebServer]]:
    """Return a function that serves a folder to clients without patience."""
    monkeypatch.setattr(objects.SETTINGS, "policy", IMPATIENT)
    servers = []

    def start(folder: Path, **options: Any) -> WebServer:
        servers.append(WebServer(folder, **options))
        return servers[-1]

    yield start
    open_client.cache_clear()
    for server in servers:
        server.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_on_a_web_server_is_packed_to_the_bytes_of_a_local_one_through_faults(
    serve: Callable[..., WebServer], tmp_path: Path, kind: str
) -> None:
    value = SOURCES[kind](tmp_path / "set")
    proxy = FaultyProxy(serve(tmp_path / "set"), ("500", "hang", "cut", "short"), share=1 / 3)
    remote = at_url(value, tmp_path / "set", proxy.address)
    local = packed(tmp_path / "local", value, "copy")
    assert local.rows >= 5
    assert files(packed(tmp_path / "copy", remote, "copy")) == files(local)
    assert samples(packed(tmp_path / "reference", remote, "reference")) == samples(local)
    assert sum(proxy.injected.values()) > 3
    proxy.close()


def test_a_server_without_ranges_gives_images_and_refuses_tars_at_once(
    serve: Callable[..., WebServer], tmp_path: Path
) -> None:
    value = SOURCES["coco"](tmp_path / "set")
    tar_of(tmp_path / "set/tars/0.tar", {"0.png": image(0), "0.txt": b"a caption"})
    server = serve(tmp_path / "set", ranges=False)
    remote = at_url(value, tmp_path / "set", server.address)
    local = packed(tmp_path / "local", value, "copy")
    assert files(packed(tmp_path / "remote", remote, "copy")) == files(local)
    assert samples(packed(tmp_path / "reference", remote, "reference")) == samples(local)
    with pytest.raises(RemoteError, match=r"0\.tar: the server answers with \d+ bytes where \d+ .* answers .* ranges"):
        packed(tmp_path / "tars", {"source": "tars", "tars": f"{server.address}/tars"}, "copy")


def test_an_image_that_was_replaced_is_another_version(serve: Callable[..., WebServer], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(0))
    place = RemotePath(f"{serve(tmp_path).address}/a.png")
    before = object_state(place)
    assert object_state(place) == before
    os.utime(tmp_path / "a.png", (0, 0))
    assert object_state(place) != before


def test_a_folder_that_is_missing_and_a_server_that_fails_are_told_apart(
    serve: Callable[..., WebServer], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(image(0))
    server = serve(tmp_path)
    with pytest.raises(UsageError, match=r"missing holds no files"):
        parse_source({"source": "tars", "tars": f"{server.address}/missing"}, "index.train").listing("index.train")
    proxy = FaultyProxy(server, ("500",), share=1.0)
    proxy.most_failures = 1 << 20
    with pytest.raises(RemoteError, match=r"gave up after 12 attempts .*500"):
        object_state(RemotePath(f"{proxy.address}/images/a.png"))
    with pytest.raises(RemoteError, match="gave up after 12 attempts"):
        list_objects(RemotePath(f"{proxy.address}/images"))
    proxy.close()
    (tmp_path / "images/b.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(RemoteError, match=r"b\.png: its folder lists it, and the server does not have it"):
        list_objects(RemotePath(f"{server.address}/images"))


def test_without_the_client_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(attempts=1))  # another client than those of other tests
    with pytest.raises(UsageError, match="https://: needs the package aiohttp, which is not installed: pip install"):
        object_state(RemotePath("https://127.0.0.1:9/a"))


@pytest.mark.parametrize("kind", SOURCES)
def test_over_tls_a_source_of_a_trusted_server_is_packed_to_the_bytes_of_a_local_one(
    serve: Callable[..., WebServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    certificate = write_certificate(tmp_path / "certificate.pem")
    trust(certificate, monkeypatch)
    value = SOURCES[kind](tmp_path / "set")
    server = serve(tmp_path / "set", certificate=certificate)
    assert server.address.startswith("https://")
    remote = at_url(value, tmp_path / "set", server.address)
    local = packed(tmp_path / "local", value, "copy")
    assert files(packed(tmp_path / "copy", remote, "copy")) == files(local)
    assert samples(packed(tmp_path / "reference", remote, "reference")) == samples(local)


@pytest.mark.parametrize(("days", "trusted", "said"), [(1, False, "self.signed"), (-1, True, "expired")])
def test_a_server_whose_certificate_is_not_trusted_is_refused_at_once_in_one_line(
    serve: Callable[..., WebServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    days: int,
    trusted: bool,
    said: str,
) -> None:
    certificate = write_certificate(tmp_path / "certificate.pem", days)
    if trusted:
        trust(certificate, monkeypatch)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(image(0))
    folder = RemotePath(f"{serve(tmp_path, certificate=certificate).address}/images")
    for ask in (list_objects, object_state, lambda place: read_range(place / "a.png", 0, 1)):
        with pytest.raises(RemoteError, match=rf"certificate is not trusted: .*{said}.*SSL_CERT_FILE") as error:
            ask(folder)
        assert "\n" not in str(error.value)


def test_a_program_trusts_the_certificates_of_the_variable(serve: Callable[..., WebServer], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(image(0))
    certificate = write_certificate(tmp_path / "certificate.pem")
    program = (
        "import sys\nfrom pipeline.project.remote.objects import list_objects\n"
        "from pipeline.project.remote.paths import parse_url\nprint(list(list_objects(parse_url(sys.argv[1]))))"
    )
    url = f"{serve(tmp_path, certificate=certificate).address}/images"
    started = [sys.executable, "-c", program, url]
    environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
    shown = subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == "['a.png']\n"


def trust(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust a certificate as a program does that was started with it: aiohttp reads the variable when imported."""
    import aiohttp.connector

    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=str(certificate)))
    open_client.cache_clear()
