"""An int8 form of a graph: static, per channel, with what suffers most left in float."""

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
"""How good a quantised graph is: larger is better, 1 is as good as float."""


@dataclass(frozen=True)
class PrecisionPoint:
    """One point of the mixed-precision curve."""

    float_layers: int
    score: float
    size_bytes: int


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Packed images, in batches, as onnxruntime wants them."""

    def __init__(self, pixels: UInt8[np.ndarray, "n s s 3"]) -> None:
        self.pixels = pixels
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or nothing at the end."""
        return next(self.batches, None)

    def rewind(self) -> None:
        """Begin again at the first batch."""
        starts = range(0, len(self.pixels), CALIBRATION_BATCH)
        self.batches: Iterator[dict[str, np.ndarray]] = iter(
            {"image": self.pixels[start : start + CALIBRATION_BATCH]} for start in starts
        )


def quantize(source: Path, path: Path, pixels: UInt8[np.ndarray, "n s s 3"], keep_float: Sequence[str] = ()) -> None:
    """Write the int8 form of a float graph: weights per channel, activations by their extremes over `pixels`."""
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
    """Hold back the advice that onnxruntime gives through the root logger on every call, and only then."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def preprocess_graph(source: Path, path: Path) -> None:
    """Write a graph with its shapes inferred and its batch norms folded: what quantisation starts from."""
    with atomic_write(path) as temporary:
        quant_pre_process(str(source), str(temporary), skip_symbolic_shape=True)


def weighted_nodes(path: Path) -> dict[str, int]:
    """Return the names of the nodes that have weights, in the graph's order, and how many weights each has."""
    graph = onnx.load(str(path)).graph
    sizes = {weights.name: math.prod(weights.dims) for weights in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in WEIGHTED]
    return {
        node.name: max(sizes.get(name, 0) for name in node.input) for node in nodes if sizes.keys() & set(node.input)
    }


def quantize_mixed(
    source: Path, path: Path, pixels: UInt8[np.ndarray, "n s s 3"], score: Score, bar: float
) -> list[PrecisionPoint]:
    """Quantise, and while the score is below the bar leave twice as many layers in float.

    First go those that lose most for each weight that float would cost: what a layer loses is 1 − the score of
    the graph in which it alone is int8. By the loss alone a large layer goes early, and takes back most of what
    int8 has saved: mobilenetv3's last convolution is a third of its bytes and the fourth of 53 losses (benchmarks/).
    Returns the curve; the last point is what lies at `path`, whether or not it reaches the bar.
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
