"""A larger photo teacher: a text tower and a projection trained on the features of a frozen image tower (LiT).

Locked-image tuning (Zhai et al., 2022): the image tower keeps its ImageNet weights, so its features are computed once,
and a step costs what its texts cost. The classes of ImageNet of which there are no photos take part with features
drawn from the classifier (pseudo_features.py).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Bool, Float
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from benchmarks.frozen_features import half_precision
from benchmarks.frozen_pairs import PairSampler
from benchmarks.sample_teacher import save
from cache.atomic import atomic_write

STATE = "training.pt"
SAVE_STEPS = 25
WARMUP_STEPS = 50
LEARNING_RATE, PROJECTION_RATE = 1e-3, 3e-4
"""The projection begins with the features' principal axes and is to stay near them."""
SHORT_CONTEXT = 16
"""Tokens of three batches in four; the fourth has the whole context, so that no position stays untrained."""


def teacher_config(tower: str, side: int, dim: int = 512, layers: int = 3, width: int = 256) -> dict[str, object]:
    """Return open_clip's configuration of the teacher."""
    return {
        "model_cfg": {
            "embed_dim": dim,
            "vision_cfg": {
                "timm_model_name": tower,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": side,
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": 49408,
                "width": width,
                "heads": width // 64,
                "layers": layers,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def contrastive_loss(
    image: Float[torch.Tensor, "b d"],
    text: Float[torch.Tensor, "b d"],
    scale: Float[torch.Tensor, ""],
    positives: Bool[torch.Tensor, "b b"],
) -> Float[torch.Tensor, ""]:
    """Contrast unit vectors where several texts are right for an image, and several images for a text.

    With s = scale · image textᵀ and P the positives, rows divided by their sum: the mean of the cross-entropies of
    softmax(s) to P and of softmax(sᵀ) to Pᵀ (UniCL, Yang et al., 2022).
    """
    logits, truth = scale * image @ text.T, positives.to(image.dtype)
    ways = ((logits, truth), (logits.T, truth.T))
    first, second = (F.cross_entropy(s, p / p.sum(dim=1, keepdim=True)) for s, p in ways)
    return (first + second) / 2


def encode_short(model: open_clip.CLIP, tokens: torch.Tensor, context: int) -> Float[torch.Tensor, "b d"]:
    """Return text embeddings from the first tokens alone; a text that is cut ends with its end token there."""
    end = tokens.max(dim=1, keepdim=True).values
    cut = torch.where(tokens[:, context - 1 : context] == 0, tokens[:, context - 1 : context], end)
    tokens = torch.cat([tokens[:, : context - 1], cut], dim=1)
    x = model.token_embedding(tokens) + model.positional_embedding[:context]
    mask = model.attn_mask[:context, :context]
    with half_precision():
        x = model.transformer(x, attn_mask=mask)
    x = model.ln_final(x.float())
    return x[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection


def start_projection(model: open_clip.CLIP, rows: Float[np.ndarray, "n f"]) -> None:
    """Begin the projection with the principal axes of the features."""
    centered = rows - rows.mean(axis=0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    weight = model.visual.head.proj.weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(vectors[:, ::-1][:, : len(weight)].T.copy()).to(weight))


def train(sampler: PairSampler, tower: dict[str, torch.Tensor], out: Path, steps: int, batch: int) -> open_clip.CLIP:
    """Train projection and text tower for some steps; a run that was stopped goes on where its state was saved."""
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False)
    trunk = model.visual.trunk
    trunk.load_state_dict({name: tower[name] for name in trunk.state_dict()})
    start_projection(model, np.concatenate([sampler.captioned.views["plain"], sampler.pseudo.means]))
    projection = model.visual.head.proj.weight
    learned = [p for name, p in model.named_parameters() if not name.startswith("visual.")]
    groups = [
        {
            "params": [p],
            "peak": PROJECTION_RATE if p is projection else LEARNING_RATE,
            "weight_decay": 0.05 if p.ndim == 2 and p.shape[0] != 49408 else 0.0,
        }
        for p in (*learned, projection)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    first = resume_state(out / STATE, model, optimizer)
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_share(step, steps, WARMUP_STEPS)
        pairs = sampler.batch(step, batch)
        image = F.normalize(torch.from_numpy(pairs.features).float() @ projection.T, dim=-1)
        context = model.context_length if step % 4 == 3 else min(SHORT_CONTEXT, model.context_length)
        text = F.normalize(encode_short(model, tokenizer(pairs.texts), context), dim=-1)
        loss = contrastive_loss(image, text, model.logit_scale.exp(), torch.from_numpy(pairs.positives))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say its type
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if (step + 1) % 20 == 0:
            print(f"step {step + 1:5d}  loss {loss.item():.3f}  scale {model.logit_scale.exp().item():.1f}", flush=True)
        if (step + 1) % SAVE_STEPS == 0:
            save_state(out / STATE, model, optimizer, step + 1)
    save(model, out)
    (out / STATE).unlink(missing_ok=True)
    return model.eval()


def rate_share(step: int, steps: int, warmup: int) -> float:
    """Return the share of its peak that the learning rate has: a cosine, and so many steps of warm-up on top of it."""
    return min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def save_state(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what a run that is stopped goes on from."""
    with atomic_write(path) as temporary:
        torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)


def resume_state(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what was saved, if anything was, and return the number of steps that were made."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    return step


def write_config(out: Path, config: dict[str, object]) -> None:
    """Write open_clip's configuration beside where the weights will be."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
