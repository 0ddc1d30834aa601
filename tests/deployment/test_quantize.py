"""What is left in float is what loses most for the bytes that it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.deployment.onnx_graph import Graph, write_onnx
from pipeline.deployment.quantize import preprocess_graph, quantize_mixed, weighted_nodes
from pipeline.students.model import Student, StudentParams
from tests import ROOT

SIZE = 32


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    student = Student("test_resnet", StudentParams.model_validate({"backbone": {"weights": None}}), 8)
    write_onnx(folder / "float.onnx", Graph(student), SIZE)
    preprocess_graph(folder / "float.onnx", folder / "plain.onnx")
    return folder / "plain.onnx"


def in_int8(path: Path) -> int:
    """Count the weights in int8; their zero points have one axis."""
    tensors = onnx.load(str(path)).graph.initializer
    return sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1 for tensor in tensors)


def test_among_layers_that_lose_alike_the_small_ones_are_left_in_float(plain: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    weights = weighted_nodes(plain)
    bar = 1 - 0.01 * (len(weights) - 2)
    curve = quantize_mixed(plain, tmp_path / "mixed.onnx", pixels, lambda path: 1 - 0.01 * in_int8(path), bar)
    assert [point.float_layers for point in curve] == [0, 1, 2]
    kept = {node.input[1] for node in onnx.load(str(plain)).graph.node if node.name in weights} & {
        tensor.name
        for tensor in onnx.load(str(tmp_path / "mixed.onnx")).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    sizes = {node.input[1]: weights[node.name] for node in onnx.load(str(plain)).graph.node if node.name in weights}
    assert len(kept) == 2
    assert sorted(sizes[name] for name in kept) == sorted(sizes.values())[:2]
    # Negative control: the largest two would have cost most of what int8 saves.
    assert sum(sorted(sizes.values())[:2]) < 0.2 * sum(sorted(sizes.values())[-2:])


def test_a_graph_says_nothing_of_the_machine_that_made_it(plain: Path) -> None:
    made = plain.with_name("float.onnx").read_bytes()
    for name in (str(ROOT), str(Path.home()), "stack_trace"):
        assert name.encode() not in made
