"""A student as the Hub keeps it: others load it with timm alone, and an upload says what it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from pipeline.commands.export import check_export_kind
from pipeline.commands.export_hub import HubExport, export_hub, write_weights
from pipeline.data.user_images import load_center_view
from pipeline.deployment.hub import modeling
from pipeline.deployment.predictor import open_model
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.students.checkpoint import load_student, read_card, save_student
from pipeline.students.inference import embed_pixels
from pipeline.students.model import Student, StudentParams
from tests.factories.fork_server import programs
from tests.factories.hub_server import HubServer
from tests.factories.project import RUNTIME
from tests.factories.students import TEXT

pytestmark = pytest.mark.process

PROBE = """
import json, sys, timm, torch
model = timm.create_model(sys.argv[1], pretrained=True).eval()
torch.manual_seed(0)
print(json.dumps(model(torch.rand(2, 3, 32, 32)).tolist()))
"""

PUSH = """
import sys
from pathlib import Path
from pipeline.deployment.hub.hub_upload import require_token, upload_model
print(upload_model(Path(sys.argv[1]), "me/student", require_token()))
"""


@pytest.fixture(scope="module")
def hub_export(shipping: Layout) -> HubExport:
    return export_hub(
        shipping.model("test_resnet", "zca"),
        "me/student",
        None,
        shipping,
        RUNTIME,
        labels="badges",
        zero_shot=["badges"],
    )


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.shutdown()
    server.server_close()


def expected(folder: Path) -> np.ndarray:
    student = load_student(folder)
    torch.manual_seed(0)
    with torch.inference_mode():
        return student(torch.rand(2, 3, 32, 32)).numpy()


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter with an environment of its own, or without one a fork that has no way to the Hub."""
    python = sys.executable if environment else programs() / "python"
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_timm_alone_loads_the_folder_and_gives_the_students_embeddings(
    hub_export: HubExport, shipping: Layout, tmp_path: Path
) -> None:
    assert hub_export.in_timm
    found = run_python("-c", PROBE, f"local-dir:{hub_export.folder}")
    want = expected(shipping.model("test_resnet", "zca"))
    assert np.abs(np.array(json.loads(found.stdout)) - want).max() < 1e-5
    assert np.abs(want - expected(shipping.model("test_resnet", "raw"))).max() > 1e-2  # negative control


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("test_resnet", {"head": {"kind": "mlp", "hidden": 8}, "text": {**TEXT, "context": 8}}),
        ("mobilenetv3", {"backbone": {"stem_stride": 1, "weights": None}}),
        ("test_resnet", {}),
    ],
    ids=["an mlp head and a text tower", "a stem without stride", "a fixed length"],
)
def test_what_timm_cannot_express_its_modeling_file_can(
    name: str, params: dict[str, Any], shipping: Layout, pictures: Path, tmp_path: Path
) -> None:
    card = read_card(shipping.model("test_resnet", "raw"))
    torch.manual_seed(1)
    student = Student(name, StudentParams.model_validate(params), 24)
    if not params:
        student.radius = 2.0
        student.fold_unwhitening(torch.randn(24, 24), torch.randn(24))
    keys = ("target", "target_fingerprint", "image_size", "teacher", "fingerprint")
    save_student(tmp_path, student, {key: card[key] for key in keys})
    student = load_student(tmp_path)
    assert not write_weights(tmp_path, student, None)  # type: ignore[arg-type]  # no images are looked at
    shutil.copy(modeling.__file__, tmp_path)
    found = run_python(str(tmp_path / "modeling.py"), str(pictures / "one.jpg"))
    want = embed_pixels(student, load_center_view(pictures / "one.jpg", 32)[None])[0]
    assert np.abs(np.array(json.loads(found.stdout)) - want).max() < 1e-4, found.stderr


def test_the_folder_has_a_card_with_metadata_and_opens_as_a_model(hub_export: HubExport, shipping: Layout) -> None:
    card = ModelCard.load(hub_export.folder / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.license == "other"
    assert 'timm.create_model("hf-hub:me/student", pretrained=True)' in card.text
    assert {p.name for p in hub_export.folder.iterdir()} == {
        "README.md",
        "checksums.json",
        "config.json",
        "labels.json",
        "model.onnx",
        "model.safetensors",
        "modeling.py",
        "preprocess.json",
    }
    model = open_model(hub_export.folder)
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    want = embed_pixels(load_student(shipping.model("test_resnet", "zca")), pixels)
    assert np.abs(model.embed(pixels) - want).max() < 1e-4


def test_a_folder_goes_up_to_the_hub_and_comes_down_by_timm(
    hub: HubServer, hub_export: HubExport, shipping: Layout, tmp_path: Path
) -> None:
    there = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_made_up", "HF_HUB_DISABLE_XET": "1"}
    up = run_python("-c", PUSH, str(hub_export.folder), **there)
    assert up.returncode == 0, up.stderr
    assert hub.tokens == {"Bearer hf_made_up"}
    assert hub.repositories["me/student"] == {p.name: p.read_bytes() for p in hub_export.folder.iterdir()}
    down = run_python("-c", PROBE, "hf-hub:me/student", **there)
    assert down.returncode == 0, down.stderr
    assert np.abs(np.array(json.loads(down.stdout)) - expected(shipping.model("test_resnet", "zca"))).max() < 1e-5
    hub.refuse = 403
    refused = run_python("-c", PUSH, str(hub_export.folder), **there)
    assert "PipelineError: --push me/student: " in refused.stderr
    assert "push it again" in refused.stderr.splitlines()[-1]


def test_without_a_token_the_message_says_how_to_come_by_one_and_nothing_is_written(
    shipping: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.deployment.hub.hub_upload.get_token", lambda: None)
    with pytest.raises(UsageError, match=r"no token for the Hub. Run `hf auth login`, or set HF_TOKEN"):
        export_hub(shipping.model("test_resnet", "zca"), "me/x", tmp_path / "out", shipping, RUNTIME, push=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a/b/c", "me/", "with space", "-x"])
def test_a_name_that_the_hub_does_not_take_is_one_line(name: str, shipping: Layout) -> None:
    with pytest.raises(UsageError, match=r"^--hub ") as refused:
        export_hub(shipping.model("test_resnet", "zca"), name, None, shipping, RUNTIME)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("web", "hub", "push", "plain", "message"),
    [
        (True, "me/x", False, True, "give one of them"),
        (False, None, True, True, "--push: only with --hub NAME"),
        (True, None, False, False, "--web: has a format and a space of its own"),
        (False, "me/x", False, False, "leave out --format, --space and --int8"),
    ],
)
def test_kinds_of_export_that_do_not_go_together_are_one_line(
    web: bool, hub: str | None, push: bool, plain: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_export_kind(web, hub, push, plain)
    check_export_kind(False, "me/x", True, True)
