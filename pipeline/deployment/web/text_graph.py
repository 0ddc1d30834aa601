"""A student's own text tower as an ONNX graph: token ids in, their embedding in CLIP space out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from jaxtyping import Float, Int
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from cache.atomic import atomic_write
from pipeline.deployment.onnx_graph import export_module
from pipeline.deployment.quantize import silent
from pipeline.students.text_tower import TextTower

TOKENS, TEXT_EMBEDDING = "tokens", "text_embedding"


class TextGraph(nn.Module):
    """The text tower over whole rows of token ids.

    A row is read at its end-of-text token, the highest id; attention is causal, so that the zeros behind it change
    nothing.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """Return the embedding of texts, as `TextTower` gives it."""
        trunk, ids = self.tower.trunk, tokens.long()
        x = trunk.token_embedding(ids) + trunk.positional_embedding
        x = trunk.ln_final(trunk.transformer(x, attn_mask=trunk.attn_mask))
        ends = ids.argmax(dim=1)[:, None, None].expand(-1, 1, x.shape[2])
        return self.tower.project(x.gather(1, ends).squeeze(1))


def write_text_onnx(path: Path, tower: TextTower) -> None:
    """Write a text tower as ONNX, batch dynamic, checked by onnx's own checker before it takes its name."""
    example = torch.zeros((2, tower.context), dtype=torch.int32)
    export_module(path, TextGraph(tower), example, TOKENS, [TEXT_EMBEDDING])


def quantize_text_onnx(source: Path, path: Path) -> None:
    """Write the int8 form of a text graph: word embeddings and weights in 8 bits, activations as they come."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, silent(), atomic_write(path) as temporary:
        plain = Path(folder) / "plain.onnx"
        model = onnx.load(str(source))
        del model.graph.value_info[:]  # shapes of transposed weights that the quantizer would take for a contradiction
        onnx.save(model, str(plain))
        quantize_dynamic(
            str(plain),
            str(temporary),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        )
