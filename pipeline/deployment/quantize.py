"""Quantize a graph to int8: static, per channel, with the most sensitive layers in float."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import UInt8
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationMethod
from onnxruntime.quantization.shape_inference import quant_pre_process

from cache.atomic import atomic_write

WEIGHTED = ("Conv", "Gemm", "MatMul")
CALIBRATION_BATCH = 32

Score = Callable[[Path], float]
"""Quality of a quantized graph: larger is better, 1 is the float graph."""


@dataclass(frozen=True)
class PrecisionPoint:
    """One point of the mixed-precision curve."""

    float_layers: int
    score: float
    size_bytes: int


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of packed images for onnxruntime's calibration."""

    def __init__(self, pixels: UInt8[np.ndarray, "n s s 3"]) -> None:
        self.pixels = pixels
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None at the end."""
        return next(self.batches, None)

    def rewind(self) -> None:
        """Restart at the first batch."""
        starts = range(0, len(self.pixels), CALIBRATION_BATCH)
        self.batches: Iterator[dict[str, np.ndarray]] = iter(
            {"image": self.pixels[start : start + CALIBRATION_BATCH]} for start in starts
        )


def quantize(source: Path, path: Path, pixels: UInt8[np.ndarray, "n s s 3"], keep_float: Sequence[str] = ()) -> None:
    """Write the int8 form of a float graph: weights per channel, activations by their range over `pixels`."""
    with silent(), atomic_write(path) as temporary:
        quantize_static(
            str(source),
            str(temporary),
            Calibration(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(WEIGHTED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(keep_float),
        )


@contextmanager
def silent() -> Iterator[None]:
    """Suppress the advice that onnxruntime logs through the root logger on every call."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def preprocess_graph(source: Path, path: Path) -> None:
    """Write a graph with inferred shapes and folded batch norms, the input of quantization."""
    with atomic_write(path) as temporary:
        quant_pre_process(str(source), str(temporary), skip_symbolic_shape=True)


def weighted_nodes(path: Path) -> dict[str, int]:
    """Return the names of the nodes with weights, in the graph's order, and the number of weights of each."""
    graph = onnx.load(str(path)).graph
    sizes = {weights.name: math.prod(weights.dims) for weights in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in WEIGHTED]
    return {
        node.name: max(sizes.get(name, 0) for name in node.input) for node in nodes if sizes.keys() & set(node.input)
    }


def quantize_mixed(
    source: Path, path: Path, pixels: UInt8[np.ndarray, "n s s 3"], score: Score, bar: float
) -> list[PrecisionPoint]:
    """Quantize; while the score is below `bar`, double the number of layers in float.

    Layers are chosen by loss per weight. The loss of a layer is 1 − the score of the graph in which only this layer is
    int8. By loss alone, a large layer would be chosen early and undo most of the size reduction: mobilenetv3's last
    convolution is a third of its bytes and has the fourth of 53 losses (benchmarks/). Returns the curve; its last point
    describes the file at `path`, whether or not it reaches `bar`.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.onnx"
        preprocess_graph(source, plain)
        curve = [_point(plain, path, pixels, (), score)]
        if curve[-1].score >= bar:
            return curve
        ranked = _by_loss_per_weight(plain, Path(folder) / "one.onnx", pixels[:CALIBRATION_BATCH], score)
        count = 1
        while curve[-1].score < bar and count <= len(ranked) // 2:
            curve.append(_point(plain, path, pixels, ranked[:count], score))
            count *= 2
    return curve


def _point(
    plain: Path, path: Path, pixels: UInt8[np.ndarray, "n s s 3"], keep: Sequence[str], score: Score
) -> PrecisionPoint:
    quantize(plain, path, pixels, keep)
    return PrecisionPoint(len(keep), score(path), path.stat().st_size)


def _by_loss_per_weight(plain: Path, path: Path, pixels: UInt8[np.ndarray, "n s s 3"], score: Score) -> list[str]:
    weights = weighted_nodes(plain)
    lost = {}
    for name, count in weights.items():
        quantize(plain, path, pixels, [other for other in weights if other != name])
        lost[name] = (1 - score(path)) / count
    return sorted(weights, key=lambda name: -lost[name])
