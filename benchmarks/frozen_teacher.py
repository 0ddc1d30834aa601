"""A larger photo teacher: a text tower and a projection trained on the features of a frozen image tower (LiT).

Locked-image tuning (Zhai et al., 2022): the image tower keeps its ImageNet weights, so its features are computed once,
and a step costs what its texts cost. The classes of ImageNet of which there are no photos take part with features
drawn from the classifier (pseudo_features.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Bool, Float
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from benchmarks.frozen_features import FeatureSet, half_precision
from benchmarks.imagenet_words import KINDS, ClassWords, imagenet_classes
from benchmarks.photo_sets import Photo
from benchmarks.pseudo_features import PseudoFeatures
from benchmarks.sample_teacher import save
from benchmarks.styles import STYLE_TEMPLATES
from cache.atomic import atomic_write
from pipeline.data.prompts import TEMPLATES

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


@dataclass(frozen=True)
class Pairs:
    """A batch: features, a text for each, and which text is true of which row."""

    features: Float[np.ndarray, "b f"]
    texts: list[str]
    positives: Bool[np.ndarray, "b b"]
    """[i, j]: text j is true of features i."""


@dataclass(frozen=True)
class PairSampler:
    """Draws the batch of a step from captioned photos, photos of classes, and pseudo-features of all classes."""

    captioned: FeatureSet
    classed: FeatureSet
    pseudo: PseudoFeatures
    shares: tuple[float, float] = (0.45, 0.2)
    """Of captioned and of classed photos; pseudo-features fill the batch."""
    kind_share: float = 0.0
    """Of captioned photos that are told by a kind that their captions name, instead of by a caption."""

    def batch(self, step: int, rows: int, seed: int = 0) -> Pairs:
        """Return the batch of a step, a function of seed and step alone."""
        rng = np.random.default_rng([seed, step])
        counts = [round(share * rows) for share in self.shares]
        drawn = [
            self._captioned(rng, counts[0]),
            self._classed(rng, counts[1]),
            self._pseudo(rng, rows - sum(counts)),
        ]
        columns: list[list[Any]] = [[item for part in drawn for item in part[i]] for i in range(4)]
        features, texts, topics, truths = columns
        positives = np.array([[topic in truth for topic in topics] for truth in truths])
        return Pairs(np.stack(features), texts, positives)

    def _captioned(self, rng: np.random.Generator, count: int) -> _Rows:
        chosen = rng.choice(len(self.captioned.notes), min(count, len(self.captioned.notes)), replace=False)
        notes = [self.captioned.notes[i] for i in chosen]
        captions = [self._caption(note, rng) for note in notes]
        truths = [{note.concept, *mentioned(note.words)} for note in notes]
        features, views = _views(self.captioned, chosen, rng)
        texts = ([text for text, _ in captions], [topic for _, topic in captions], truths)
        return (features, *_in_styles(views, texts, rng))

    def _caption(self, note: Photo, rng: np.random.Generator) -> tuple[str, str]:
        """Return a text of a captioned photo and what it is about."""
        kinds = sorted(mentioned(note.words)) if self.kind_share else []
        if kinds and rng.random() < self.kind_share:
            kind = str(rng.choice(kinds))
            return f"a {rng.choice(KINDS[kind][0])}", kind
        return str(rng.choice(note.words)), note.concept

    def _classed(self, rng: np.random.Generator, count: int) -> _Rows:
        chosen = rng.choice(len(self.classed.notes), min(count, len(self.classed.notes)), replace=False)
        classes = {words.wnid: words for words in imagenet_classes()}
        known = [classes.get(self.classed.notes[i].concept) for i in chosen]
        words = [
            found or ClassWords(note.concept, note.words, note.words[0], None)
            for found, note in zip(known, (self.classed.notes[i] for i in chosen), strict=True)
        ]
        features, views = _views(self.classed, chosen, rng)
        return (features, *_in_styles(views, _class_texts(words, rng), rng))

    def _pseudo(self, rng: np.random.Generator, count: int) -> _Rows:
        classes = imagenet_classes()
        kinds = [kind for kind, (_, ranges) in KINDS.items() if ranges]
        by_kind = [[n for n, words in enumerate(classes) if words.kind == kind] for kind in kinds]
        chosen = [
            int(rng.choice(by_kind[rng.integers(len(by_kind))]) if i % 2 else rng.integers(len(classes)))
            for i in range(count)
        ]
        features, views = self.pseudo.draw(chosen, rng)
        return (list(features), *_in_styles(views, _class_texts([classes[n] for n in chosen], rng), rng))


_Texts = tuple[list[str], list[str], list[set[str]]]
"""Texts, what each is about, and what is true of the image at its place."""
_Rows = tuple[list[np.ndarray], list[str], list[str], list[set[str]]]
"""Features, and the three lists of `_Texts`."""


def mentioned(captions: Sequence[str]) -> set[str]:
    """Return the kinds of which a caption has a word."""
    words = set(" ".join(captions).lower().replace(".", " ").replace(",", " ").split())
    return {kind for kind, (names, _) in KINDS.items() if words & {*names, *(f"{name}s" for name in names)}}


def _views(photos: FeatureSet, chosen: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], list[str]]:
    names = list(photos.views)
    views = [names[rng.integers(len(names))] for _ in chosen]
    return [photos.views[view][i] for view, i in zip(views, chosen, strict=True)], views


def _in_styles(views: list[str], rows: _Texts, rng: np.random.Generator) -> _Texts:
    """Name the style in half of the texts of styled views; a text that names one is true of images in it alone."""
    texts, topics, truths = rows
    for i, view in enumerate(views):
        if view in STYLE_TEMPLATES:
            truths[i] = truths[i] | {_styled_topic(topic, view) for topic in truths[i]}
            if rng.random() < 0.5:
                texts[i] = str(rng.choice(STYLE_TEMPLATES[view])).format(c=_phrase(texts[i]))
                topics[i] = _styled_topic(topics[i], view)
    return texts, topics, truths


def _styled_topic(topic: str, style: str) -> str:
    return f"{topic} as {style}"


def _phrase(text: str) -> str:
    """Return a sentence as part of another one: a template's own medium ("a photo of …") goes, and the full stop."""
    phrase = text.strip().rstrip(" .")
    return re.sub(r"^an? ([a-z-]+ )*?photo of ", "", phrase[:1].lower() + phrase[1:])


def _class_texts(words: Sequence[ClassWords], rng: np.random.Generator) -> _Texts:
    """Return for each class a text, what the text is about, and what is true of the class."""
    texts, topics = [], []
    for each in words:
        about = rng.random()
        template = str(rng.choice(TEMPLATES["cifar10"]))
        if each.kind and about < 0.45:
            texts.append(template.format(c=rng.choice(KINDS[each.kind][0])))
        else:
            texts.append(each.definition if about > 0.9 else template.format(c=rng.choice(each.names)))
        topics.append(each.kind if each.kind and about < 0.45 else each.wnid)
    return texts, topics, [{each.wnid, each.kind or each.wnid} for each in words]


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
    first = _resume(out / STATE, model, optimizer)
    for step in range(first, steps):
        share = min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
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
            _save(out / STATE, model, optimizer, step + 1)
    save(model, out)
    (out / STATE).unlink(missing_ok=True)
    return model.eval()


def _save(path: Path, model: open_clip.CLIP, optimizer: torch.optim.Optimizer, step: int) -> None:
    with atomic_write(path) as temporary:
        torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)


def _resume(path: Path, model: open_clip.CLIP, optimizer: torch.optim.Optimizer) -> int:
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
