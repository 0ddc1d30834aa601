"""Opening graphs, and holding them against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from cache.errors import DamagedError, MissingError
from pipeline.deployment.onnx_session import image_size, open_session, parity


def test_parity_sees_a_difference() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    same, other = parity(rows, rows, np.eye(4)), parity(-rows, rows, np.eye(4))
    assert (same.max_difference, same.top1_agreement) == (0.0, 1.0)
    assert same.min_cosine == pytest.approx(1.0)
    assert other.mean_cosine == pytest.approx(-1.0)
    assert other.top1_agreement == 0.0


def test_a_graph_of_an_opset_from_the_future_is_one_line(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported / "model.onnx"))
    model.opset_import[0].version = 99
    onnx.save(model, str(tmp_path / "later.onnx"))
    with pytest.raises(DamagedError, match=r"later\.onnx: onnxruntime cannot read it") as refused:
        open_session(tmp_path / "later.onnx")
    assert "\n" not in str(refused.value)


def test_a_graph_that_is_none_of_ours_is_one_line(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    takes, gives = value("x", onnx.TensorProto.FLOAT, ["n", 3]), value("y", onnx.TensorProto.FLOAT, ["n", 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [takes], [gives])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), str(tmp_path / "other.onnx"))
    with pytest.raises(DamagedError, match=r"takes 'x' .*it is no model that `export` wrote"):
        image_size(open_session(tmp_path / "other.onnx"))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no such file\. Run `python cli\.py export` first"):
        open_session(tmp_path / "nothing.onnx")
