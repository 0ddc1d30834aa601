"""Run causal text towers on captions at their own length instead of the context length."""

from __future__ import annotations

from typing import Any

import torch


def causal_tower(model: torch.nn.Module) -> Any | None:
    """Return the text tower of a model if it is causal and pools at the end-of-text token, else None."""
    tower: Any = getattr(model, "text", model)
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    has_parts = all(hasattr(tower, name) for name in ("token_embedding", "positional_embedding", "ln_final"))
    plain = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    return tower if has_parts and plain and pooling == "argmax" else None


def encode_causal(tower: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute open_clip's `encode_text`, with positions and mask cut to the given tokens."""
    length = ids.shape[1]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    pooled: torch.Tensor = x[torch.arange(len(x), device=x.device), ids.argmax(dim=1)]
    projection: Any = tower.text_projection
    if projection is None:
        return pooled
    projected: torch.Tensor = projection(pooled) if isinstance(projection, torch.nn.Module) else pooled @ projection
    return projected
