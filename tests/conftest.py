"""What many tests stand on: a tiny project that was really run, once a session; and how tests share two workers."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pipeline.project.layout import Layout
from pipeline.project.remote.retries import RetryPolicy
from tests import ROOT
from tests.factories.dvc_project import STAGES, DvcProject, lay_out_dvc_project
from tests.factories.object_storage import IMPATIENT, PATIENT, FaultyProxy, S3Server, environment

SHARED = ("finished_project", "shipping")
"""Fixtures that take long: the files that name one of them run on one worker."""


def pytest_configure() -> None:
    """Give each worker of pytest-xdist its share of the cores, before anything loads torch or numpy."""
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what talks to a server as `process`: requests that fail and are sent again take seconds."""
    for item in items:
        if {"s3", "faulty_s3"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("process")


def pytest_runtest_setup() -> None:
    """Let torch's exporter read its table of operators once: it takes half a second of each export."""
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(exporter, "ONNXRegistry", None)
    if registry is not None and not hasattr(registry.from_torchlib, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute files over workers: a file's tests stay together, and so do files that name the same slow fixture."""
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def group(path: str) -> str:
        text = (ROOT / path).read_text(encoding="utf-8")
        return next((name for name in SHARED if name in text), path)

    class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist is untyped
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.split("::", maxsplit=1)[0])

    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> DvcProject:
    """A tiny project in which every stage has run, as `dvc repro` leaves it. Do not change it: `copy` it.

    One process runs the stages and `dvc commit` records them: a fifth of the time of `dvc repro`, which starts one for
    each. `test_dvc_repro_makes_and_records_what_the_stages_by_hand_and_a_commit_do` holds one against the other.
    """
    project = lay_out_dvc_project(tmp_path_factory.mktemp("dvc"))
    project.cli_in_turn(*STAGES)
    project.run("dvc", "commit", "--force")
    return project


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return `local-dir:…` of an open_clip model of 16 dimensions for 32 px, with random weights.

    Most tests load it several times: its tokenizer, which takes a tenth of a second to read, is read once.
    """
    import json

    import open_clip.factory
    import torch
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config: dict[str, Any] = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.26, 0.27], "resize_mode": "shortest"},
    }
    folder = tmp_path_factory.mktemp("teachers") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CLIP(**config["model_cfg"])
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "SimpleTokenizer", functools.cache(open_clip.factory.SimpleTokenizer))
        yield f"local-dir:{folder}"


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Layout]:
    """Return a builder of small projects with real files, made without a teacher: each is built once a session.

    It takes the keywords of `tests.factories.project.project`. Do not change what it returns: see `project_copy`.
    """
    from tests.factories.project import project

    @functools.cache
    def build(**options: Any) -> Layout:
        return project(tmp_path_factory.mktemp("project"), **options)

    return build


@pytest.fixture(scope="session")
def made_project(projects: Callable[..., Layout]) -> Layout:
    """A small project with real files of every kind. Do not change it."""
    return projects()


@pytest.fixture
def project_copy(projects: Callable[..., Layout], request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    """Return a copy of a small project; `@pytest.mark.project(students=(), tokens=16)` says of which."""
    marker = request.node.get_closest_marker("project")
    original = projects(**(marker.kwargs if marker else {}))
    return Layout(Path(shutil.copytree(original.root, tmp_path / "project")))


@pytest.fixture(scope="session")
def shipping(projects: Callable[..., Layout]) -> Layout:
    """A small project with two untrained students of one backbone. Exports go below it; change nothing else."""
    return projects(students=("test_resnet",))


@pytest.fixture(scope="session")
def exported(shipping: Layout) -> Path:
    """The zca student as a device gets it, with the labels of the badges."""
    from pipeline.commands.export import ExportOptions, export
    from pipeline.deployment.labels import labels_of_split
    from tests.factories.project import RUNTIME

    form = ExportOptions(labels=labels_of_split("badges", shipping))
    out = shipping.root / "exports" / "labels"
    return export(shipping.model("test_resnet", "zca"), out, form, shipping, RUNTIME).folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of one's own, neither square, one turned by EXIF, one with transparency."""
    import numpy as np
    from PIL import Image

    from pipeline.data.synthetic.world import render_image

    folder = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(render_image("val", 900).image).resize((90, 70)).save(folder / "one.jpg", exif=exif)
    glass = Image.fromarray(render_image("val", 901).image).convert("RGBA").resize((60, 80))
    glass.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (80, 1))))
    glass.save(folder / "two.png")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 endpoint on the loopback, with one bucket. Each test takes a prefix of its own."""
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The endpoint, with an environment in which s3fs finds it and its credentials."""
    yield from _client(s3_server, s3_server.address, PATIENT, monkeypatch)


@pytest.fixture
def faulty_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The endpoint behind a proxy that lets a third of all requests fail, in every way it knows."""
    proxy = FaultyProxy(s3_server, ("500", "hang", "cut", "short", "slow-down"), share=1 / 3)
    yield from _client(proxy, proxy.address, IMPATIENT, monkeypatch)
    proxy.close()


Endpoint = TypeVar("Endpoint", S3Server, FaultyProxy)


def _client(
    endpoint: Endpoint, address: str, policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Endpoint]:
    from pipeline.project.remote import objects
    from pipeline.project.remote.clients import open_client

    for name, value in environment(address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects.SETTINGS, "policy", policy)
    open_client.cache_clear()
    yield endpoint
    open_client.cache_clear()
