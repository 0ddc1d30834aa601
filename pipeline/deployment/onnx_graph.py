"""Export a student as one ONNX graph from uint8 images to embeddings, or to label probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cache.atomic import atomic_write
from pipeline.deployment.labels import Labels
from pipeline.students.dense_tokens import StudentPlaces
from pipeline.students.model import Student, normalize_pixels
from pipeline.whitening.spaces import TargetSpace

OPSET = 18
"""Oldest opset that torch's exporter writes without conversion; onnxruntime ≥ 1.14 and CoreML read it."""
IMAGE, EMBEDDING, PROBABILITIES, TOKENS = "image", "embedding", "probabilities", "tokens"


class Graph(nn.Module):
    """Preprocessing, student and an optional classifier of fixed labels, as one module.

    The embedding is the student's x̂ or, for a target space, (x̂ − μ)W, computed from x̂/‖x̂‖ if the space was fitted
    on unit vectors. With label vectors t_c of unit length, the second output is softmax(s · x̂/‖x̂‖ · t_c), where s is
    CLIP's logit scale. With a grid, the last output is the unit-length patch tokens; a dilated backbone then also gives
    the embedding, as the mean over the positions of the undilated student, so that its weights are stored once.
    """

    labels: Tensor | None
    shift: Tensor | None
    matrix: Tensor | None

    def __init__(
        self,
        student: Student,
        labels: Labels | None = None,
        space: TargetSpace | None = None,
        places: StudentPlaces | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.places = places
        self.mean, self.std = student.mean_std
        self.scale = labels.scale if labels else 1.0
        self.unit_first = space is not None and space.pre_norm == "l2"
        self.register_buffer("labels", _tensor(labels.vectors if labels else None))
        self.register_buffer("shift", _tensor(space.image.mean if space else None))
        self.register_buffer("matrix", _tensor(space.image.forward if space else None))

    def forward(self, image: UInt8[Tensor, "b s s 3"]) -> tuple[Tensor, ...]:
        """Return the embedding and, if configured, the label probabilities and the tokens."""
        pixels = normalize_pixels(image, self.mean, self.std)
        clip, tokens = (self.student(pixels), None) if self.places is None else self.places(pixels)
        unit = nn.functional.normalize(clip, dim=-1)
        out = clip
        if self.matrix is not None and self.shift is not None:
            out = ((unit if self.unit_first else clip) - self.shift) @ self.matrix
        labels = () if self.labels is None else (torch.softmax(self.scale * unit @ self.labels.T, dim=-1),)
        return (out, *labels) if tokens is None else (out, *labels, tokens)

    @property
    def outputs(self) -> list[str]:
        """Return the names of the outputs."""
        return [EMBEDDING, *([PROBABILITIES] if self.labels is not None else []), *([TOKENS] if self.places else [])]


def _tensor(values: Float[np.ndarray, ...] | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(np.array(values, dtype=np.float32))


def write_onnx(path: Path, graph: Graph, size: int) -> None:
    """Write a graph as ONNX with a dynamic batch; onnx's checker runs before the file gets its name."""
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    export_module(path, graph, example, IMAGE, graph.outputs)


def export_module(path: Path, module: nn.Module, example: Tensor, name: str, outputs: Sequence[str]) -> None:
    """Write a module with one input as ONNX; `name` is the input's name, the first axis is dynamic."""
    export_graph(path, module, {name: example}, outputs)


def export_graph(path: Path, module: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str]) -> None:
    """Write a module as ONNX; inputs have the names of its signature, and share a dynamic first axis."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used")  # several inputs share it
        program = torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes={name: {0: batch} for name in example},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    with atomic_write(path) as temporary:
        program.save(str(temporary))  # type: ignore[union-attr]  # with dynamo=True it is a program
        _strip_metadata(temporary)
        onnx.checker.check_model(onnx.load(str(temporary)), full_check=True)  # the path might not be UTF-8


def _strip_metadata(path: Path) -> None:
    """Remove torch's metadata of each node (local paths and lines of code), a twentieth of a small file."""
    model = onnx.load(str(path))
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.save(model, str(path))
