"""Export a student's text tower as an ONNX graph from token ids to embeddings in CLIP space."""

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
    """The text tower on full rows of token ids.

    The output is read at the end-of-text token, which has the highest id. Attention is causal, so the padding after it
    has no effect.
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
    """Write a text tower as ONNX with a dynamic batch; onnx's checker runs before the file gets its name."""
    example = torch.zeros((2, tower.context), dtype=torch.int32)
    export_module(path, TextGraph(tower), example, TOKENS, [TEXT_EMBEDDING])


def quantize_text_onnx(source: Path, path: Path) -> None:
    """Write the int8 form of a text graph: 8-bit word embeddings and weights, dynamically quantized activations."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, silent(), atomic_write(path) as temporary:
        plain = Path(folder) / "plain.onnx"
        model = onnx.load(str(source))
        del model.graph.value_info[:]  # shapes of transposed weights, which the quantizer would reject as inconsistent
        onnx.save(model, str(plain))
        quantize_dynamic(
            str(plain),
            str(temporary),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        )
