"""Cut a slice out of the teacher's text tower, to initialize a student's."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from pipeline.data.text_slice import TextSlice
from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection
from pipeline.teacher.model import Teacher
from pipeline.teacher.text_tower import causal_tower


class TextSliceParams(ParamsSection):
    """`embed.text_slice`: size of the slice that is cached."""

    width: int = Field(ge=8)
    """Number of channels, the first ones."""
    layers: int = Field(default=0, ge=0)
    """Number of blocks, the first ones; 0, as published: only token embeddings, position embeddings and projection."""


def slice_text_tower(teacher: Teacher, params: TextSliceParams) -> TextSlice:
    """Return the first channels of the teacher's text tower.

    Attention keeps its first heads; each matrix keeps its first rows and columns.

    Raises:
        UsageError: the teacher has no causal text tower, or a smaller one.
    """
    tower = causal_tower(teacher.model)
    if tower is None:
        raise UsageError(f"params: 'embed.text_slice': {teacher.identity.model} has no text tower like CLIP's")
    blocks = tower.transformer.resblocks
    heads, full = int(blocks[0].attn.num_heads), int(tower.token_embedding.weight.shape[1])
    for name, size, most in (("width", params.width, full), ("layers", params.layers, len(blocks))):
        if size > most:
            raise UsageError(f"params: 'embed.text_slice.{name}': {size}, but the teacher has {most}")
    if params.layers and params.width % (full // heads):
        raise UsageError(f"params: 'embed.text_slice.width': blocks need a multiple of {full // heads}, a head's width")
    tensors = _embedding_weights(tower, params.width)
    for number in range(params.layers):
        tensors |= {
            f"transformer.resblocks.{number}.{name}": w for name, w in _block(blocks[number], params.width).items()
        }
    if params.layers:
        tensors |= {f"ln_final.{name}": weight[: params.width] for name, weight in tower.ln_final.state_dict().items()}
    weights = save({name: weight.detach().float().cpu().contiguous() for name, weight in sorted(tensors.items())})
    return TextSlice(weights, params.width, params.layers, full // heads)


def _embedding_weights(tower: Any, width: int) -> dict[str, Tensor]:
    """Return the weights before and after the blocks."""
    projection = tower.text_projection
    if isinstance(projection, torch.nn.Linear):
        projection = projection.weight.T
    ends = {
        "token_embedding.weight": tower.token_embedding.weight[:, :width],
        "positional_embedding": tower.positional_embedding[:, :width],
    }
    return ends if projection is None else {**ends, "text_projection": projection[:width]}


def _block(block: Any, width: int) -> dict[str, Tensor]:
    """Return a narrower block; queries, keys and values are stacked in one matrix."""
    inner = {"mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
    tensors: dict[str, Tensor] = {}
    for name, weight in block.state_dict().items():
        rows, columns = inner.get(name.rpartition(".")[0], (width, width))
        parts = weight.chunk(3) if name.startswith("attn.in_proj") else [weight]
        tensors[name] = torch.cat([part[:rows] if part.ndim == 1 else part[:rows, :columns] for part in parts])
    return tensors
