"""Run an exported graph with onnxruntime, and compare it with the student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float, UInt8
from onnxruntime import InferenceSession

from cache.errors import DamagedError, MissingError
from cache.normalization import l2_normalize
from pipeline.project.terminal import is_text

_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_UNREADABLE = (
    *(getattr(_STATE, name) for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf")),
    RuntimeError,
    ValueError,
)
"""Exceptions of onnxruntime for a file that is not a graph, or has an unknown opset."""


@dataclass(frozen=True)
class Parity:
    """Differences of two models on the same images."""

    rows: int
    max_difference: float
    mean_cosine: float
    min_cosine: float
    top1_agreement: float | None
    """Share of images with the same top-1 label; None without labels."""


def open_session(path: Path, threads: int = 0) -> InferenceSession:
    """Open a graph on the CPU; 0 threads: onnxruntime's default.

    Raises:
        MissingError: no such file.
        DamagedError: onnxruntime cannot read it.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such file. Run `python cli.py export` first.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        model = path.read_bytes() if not is_text(str(path)) else str(path)  # onnxruntime opens only UTF-8 paths
        return InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise DamagedError(f"{path}: onnxruntime cannot read it: {reason}. Export it again.") from None


def image_size(session: InferenceSession) -> int:
    """Return the side of the square input images.

    Raises:
        DamagedError: the input is not uint8 square images, so the graph was not exported by this project.
    """
    takes = session.get_inputs()[0]
    if (
        takes.name != "image"
        or takes.type != "tensor(uint8)"
        or len(takes.shape) != 4
        or type(takes.shape[1]) is not int
    ):
        raise DamagedError(
            f"the graph takes '{takes.name}' {takes.type} {takes.shape}, expected 'image' tensor(uint8) of "
            "(batch, size, size, 3): it is no model that `export` wrote"
        )
    return int(takes.shape[1])


def run_session(
    session: InferenceSession, pixels: UInt8[np.ndarray, "n s s 3"], batch: int = 64
) -> list[Float[np.ndarray, "n _"]]:
    """Return every output of a graph on all images."""
    parts = [session.run(None, {"image": pixels[start : start + batch]}) for start in range(0, len(pixels), batch)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def parity(
    outputs: Float[np.ndarray, "n d"],
    expected: Float[np.ndarray, "n d"],
    labels: Float[np.ndarray, "c d"] | None = None,
) -> Parity:
    """Compare the embeddings of two models on the same images."""
    cosine = np.sum(l2_normalize(outputs) * l2_normalize(expected), axis=1)
    agreement = None
    if labels is not None:
        agreement = float(np.mean(np.argmax(outputs @ labels.T, axis=1) == np.argmax(expected @ labels.T, axis=1)))
    return Parity(
        len(outputs),
        float(np.max(np.abs(outputs - expected))),
        float(np.mean(cosine)),
        float(np.min(cosine)),
        agreement,
    )
