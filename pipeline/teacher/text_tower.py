"""Text towers that can be given captions at their own length instead of the model's."""

from __future__ import annotations

from typing import Any

import torch


def causal_tower(model: torch.nn.Module) -> Any | None:
    """Return the part of a model that embeds text causally and pools at the end of text, if it has one."""
    tower: Any = getattr(model, "text", model)
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    known = all(hasattr(tower, name) for name in ("token_embedding", "positional_embedding", "ln_final"))
    plain = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    return tower if known and plain and pooling == "argmax" else None


def encode_causal(tower: Any, ids: torch.Tensor) -> torch.Tensor:
    """Do what open_clip's `encode_text` does, with positions and mask cut to the tokens at hand."""
    length = ids.shape[1]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pooled: torch.Tensor = x[torch.arange(len(x), device=x.device), ids.argmax(dim=1)]
    projection: Any = tower.text_projection
    if projection is None:
        return pooled
    projected: torch.Tensor = projection(pooled) if isinstance(projection, torch.nn.Module) else pooled @ projection
    return projected
