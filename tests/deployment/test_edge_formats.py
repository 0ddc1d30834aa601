"""Formats of other runtimes are held to the bar of ONNX where they are installed, and named where they are not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.export import ExportOptions, export, parse_export_options
from pipeline.deployment.edge_formats import EDGE_FORMATS, EdgeFormat, require_edge_format
from pipeline.deployment.labels import labels_of_split
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.students.checkpoint import load_student
from pipeline.students.inference import embed_pixels
from tests import ROOT
from tests.factories.project import RUNTIME


@pytest.mark.parametrize("name", EDGE_FORMATS)
@pytest.mark.filterwarnings("ignore")  # what other people's converters say of each other
def test_a_format_that_is_installed_gives_the_students_embeddings(name: str, shipping: Layout, tmp_path: Path) -> None:
    pytest.importorskip(name)
    folder, labels = shipping.model("test_resnet", "zca"), labels_of_split("badges", shipping)
    made = export(folder, tmp_path / name, ExportOptions(name, labels=labels), shipping, RUNTIME)  # type: ignore[arg-type]
    assert made.parity is not None
    assert made.parity.max_difference <= 1e-4
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    embedding, probabilities = EDGE_FORMATS[name].open(made.folder / EDGE_FORMATS[name].file, 1)(pixels)
    want = embed_pixels(load_student(folder), pixels)
    assert np.abs(embedding - want).max() <= 1e-4
    assert np.abs(embedding - want[::-1]).max() > 1e-3  # negative control
    assert np.allclose(probabilities, labels.probabilities(want), atol=1e-4)
    assert "example.py" not in (made.folder / "README.md").read_text()


def test_a_converter_whose_file_differs_is_refused(
    shipping: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EdgeFormat(
        "model.bin",
        "free",
        lambda path, graph, onnx, size: path.touch(),
        lambda path, threads: lambda pixels: [np.zeros((len(pixels), 24), np.float32)],
    )
    monkeypatch.setitem(EDGE_FORMATS, "openvino", broken)
    with pytest.raises(PipelineError, match="nothing was exported"):
        export(shipping.model("test_resnet", "zca"), tmp_path / "out", ExportOptions("openvino"), shipping, RUNTIME)
    assert not (tmp_path / "out").exists()


def test_a_format_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -c requirements.txt -r extras/openvino.txt"):
        require_edge_format("openvino")


def test_edge_formats_have_no_int8_form(shipping: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UsageError, match="in float32; --int8 needs onnx"):
        parse_export_options(shipping.model("test_resnet", "zca"), "openvino", True, "clip", None, [], shipping)


def test_each_extra_is_pinned_and_has_its_file() -> None:
    for name in EDGE_FORMATS:
        lines = (ROOT / "extras" / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert any(line.startswith(f"{name}==") for line in pins)
        assert all("==" in line for line in pins)
