"""Export a student's graph to other runtimes with their own converters, if these are installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from cache.atomic import write_bytes
from pipeline.deployment.onnx_graph import Graph
from pipeline.project.errors import UsageError

Outputs = list[Float[np.ndarray, "n _"]]
RunGraph = Callable[[UInt8[np.ndarray, "n s s 3"]], Outputs]


@dataclass(frozen=True)
class EdgeFormat:
    """Converter of a graph to a runtime's file, and loader of that file, to compare it with the student."""

    file: str
    batch: str
    """Batch sizes that the file accepts."""
    write: Callable[[Path, Graph, Path, int], None]
    """Write a file, given its path, the torch graph, the same graph as ONNX, and the side of the images."""
    open: Callable[[Path, int], RunGraph]
    """Open a file with a number of threads; 0: the runtime's default."""


def require_edge_format(name: str) -> EdgeFormat:
    """Return a format whose converter is installed.

    Raises:
        UsageError: the converter is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise UsageError(
            f"--format {name}: it is not installed. Run `{Path(sys.executable).name} -m pip install "
            f"-c requirements.txt -r extras/{name}.txt`."
        )
    return EDGE_FORMATS[name]


def _write_openvino(path: Path, graph: Graph, onnx: Path, size: int) -> None:
    """Write OpenVINO's IR in float32 with its ONNX reader, which never uses the network, unlike `convert_model`."""
    import openvino

    openvino.save_model(openvino.Core().read_model(str(onnx)), str(path), compress_to_fp16=False)


def _open_openvino(path: Path, threads: int) -> RunGraph:
    import openvino

    options: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda pixels: [np.array(output) for output in compiled(pixels).values()]


def _write_executorch(path: Path, graph: Graph, onnx: Path, size: int) -> None:
    """Write an ExecuTorch program for one image, with XNNPACK kernels for the supported operations.

    Its passes expect contiguous weights, not channels_last.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    plain = graph.to(memory_format=torch.contiguous_format).eval()
    program = torch.export.export(plain, (torch.zeros((1, size, size, 3), dtype=torch.uint8),))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    write_bytes(path, lowered.to_executorch().buffer)


def _open_executorch(path: Path, threads: int) -> RunGraph:
    """Open a program; XNNPACK chooses the number of threads itself and cannot be configured here."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(pixels: UInt8[np.ndarray, "n s s 3"]) -> Outputs:
        rows = [method.execute([torch.from_numpy(pixels[i : i + 1])]) for i in range(len(pixels))]
        return [np.concatenate([np.array(part.numpy()) for part in parts]) for parts in zip(*rows, strict=True)]

    return run


EDGE_FORMATS: dict[str, EdgeFormat] = {
    "openvino": EdgeFormat("model.xml", "free", _write_openvino, _open_openvino),
    "executorch": EdgeFormat("model.pte", "1", _write_executorch, _open_executorch),
}
