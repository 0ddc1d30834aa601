"""Run an exported graph with onnxruntime, and measure how near it comes to the student it was made of."""

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
"""What onnxruntime raises on a file that is no graph, or one of an opset that it does not know."""


@dataclass(frozen=True)
class Parity:
    """How near two models come on the same images."""

    rows: int
    max_difference: float
    mean_cosine: float
    min_cosine: float
    top1_agreement: float | None
    """Share of images that both give the same label; nothing without labels."""


def open_session(path: Path, threads: int = 0) -> InferenceSession:
    """Open a graph on the CPU; 0 threads leaves the number to onnxruntime.

    Raises:
        MissingError: no such file.
        DamagedError: onnxruntime cannot read it.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such file. Run `python cli.py export` first.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        model = path.read_bytes() if not is_text(str(path)) else str(path)  # it opens no path that is not UTF-8
        return InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise DamagedError(f"{path}: onnxruntime cannot read it: {reason}. Export it again.") from None


def image_size(session: InferenceSession) -> int:
    """Return the side of the square images that a graph takes.

    Raises:
        DamagedError: it takes something else than the bytes of square images: it is none of ours.
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
    """Return every output of a graph over all images."""
    parts = [session.run(None, {"image": pixels[start : start + batch]}) for start in range(0, len(pixels), batch)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def parity(
    found: Float[np.ndarray, "n d"],
    expected: Float[np.ndarray, "n d"],
    labels: Float[np.ndarray, "c d"] | None = None,
) -> Parity:
    """Compare two models' embeddings of the same images."""
    cosine = np.sum(l2_normalize(found) * l2_normalize(expected), axis=1)
    agreement = None
    if labels is not None:
        agreement = float(np.mean(np.argmax(found @ labels.T, axis=1) == np.argmax(expected @ labels.T, axis=1)))
    return Parity(
        len(found),
        float(np.max(np.abs(found - expected))),
        float(np.mean(cosine)),
        float(np.min(cosine)),
        agreement,
    )
